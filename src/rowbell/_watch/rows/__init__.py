"""The rows of a mapped class: its columns, the SELECT that reads them, and instances of them.

It decides which columns are watched, and whether a row has changed.
"""
