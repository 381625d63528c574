"""Locks, each of which waits for a limited time.

``tables.py``
    ``lock_tables()``: whole tables, in one order for all callers.
``rows.py``
    ``lock_rows()``: some rows of a model, in the order of their keys, as fresh instances.
``advisory.py``
    ``advisory_lock()``: a key that means something to the application alone.
``waiting.py``
    What they share: the wait, and what becomes of the caller's ``lock_timeout``.
"""
