"""Locks. Each waits for a limited time.

``tables.py``
    ``lock_tables()``: whole tables, in one order for all callers.
``rows.py``
    ``lock_rows()``: some rows of a model, in the order of their keys, as refreshed instances.
``advisory.py``
    ``advisory_lock()``: a key that has a meaning only in the application.
``waiting.py``
    What they share: the limited wait, and restoring the caller's ``lock_timeout``.
"""
