"""The database side: the schema ``rowbell``, the triggers, and the calls to its functions.

The SQL is in the folder ``sql``. Here it is decided what a trigger notifies of, and who may call
what.
"""
