"""The rows of a mapped class: its columns, the SELECT that reads them, and instances made of it.

Here it is decided which columns are watched, and whether a row has changed.
"""
