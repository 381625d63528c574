"""The database side: the schema ``rowbell``, the triggers, and the calls of its functions.

The SQL is in the folder ``sql``. This package decides what a trigger notifies of, and which role
may call which function.
"""
