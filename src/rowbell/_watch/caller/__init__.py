"""The caller's session: how it sees the row, and how it gets the changed row.

It decides whether a wait may read on other connections than the session's own.
"""
