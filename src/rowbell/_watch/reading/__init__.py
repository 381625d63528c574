"""Reads rows for the board, many in one SELECT.

Here it is decided which connection a read uses, and whose waits a failed read ends.
"""
