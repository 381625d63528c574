"""Watching: the road of a change, from the writer to the waiter.

In the order in which a change travels it:

1. ``schema``, ``triggers`` and the folder ``sql``: what stands in the database (``tables``,
   ``install``, ``inspection``, ``ddl``, ``trust`` and ``declaration`` put it there). A trigger
   looks the changed rows up among those that somebody waits for, and only then notifies.
2. ``notification``: what it sends.
3. ``connection``, ``listener``, ``listening``, ``calls``: the one connection that hears it.
4. ``board`` with ``interest``, ``schedule`` and ``throttle``: who waits for that row, and that it
   is to be read now.
5. ``reader`` and ``batch`` with ``rows``, ``columns`` and ``distinct``: many such rows in one
   SELECT, compared.
6. ``watch``: one wait, what it saw, whether it is armed, and the proof of that.
7. ``watcher`` with ``state``, ``statistics``, ``observers`` and ``timing``: all of these for
   one engine. ``request``, ``session`` and ``wait``: what a user calls.

A notification is a hint; the row is the truth. Whatever a signal says, only a read that shows
watched columns differing from the baseline ends a wait. Signals come from the bell or from the
clock, and all that follows is the same code.
"""
