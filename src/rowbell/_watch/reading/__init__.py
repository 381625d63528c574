"""Reads rows for the board, many in one SELECT.

It decides which connection a read uses, and which waits a failed read ends.
"""
