"""The session of a caller: how it sees the row, and how it gets the changed row.

Here it is decided whether a wait may read on other connections than the session's own.
"""
