"""Values of columns: how each type of PostgreSQL is read, compared and hashed.

Here it is decided whether two values of a column differ.
"""
