"""Notifiers say that rows may have changed. ``contract`` says what all of them promise.

``postgres`` is PostgreSQL's LISTEN; ``memory`` is one in memory, for tests.
"""
