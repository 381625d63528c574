"""Values of columns: how each PostgreSQL type is read, compared and hashed.

It decides whether two values of a column differ.
"""
