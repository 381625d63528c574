"""Notifiers report that rows may have changed. ``contract`` says what all of them promise.

``postgres`` uses PostgreSQL's LISTEN; ``memory`` is a notifier in memory, for tests.
"""
