"""Watching: everything from a change in the database to the end of the wait for it.

In the order in which a change travels:

1. ``database``: a trigger finds out whether the changed rows are registered, and notifies.
2. ``notifiers``: a connection receives the notification.
3. ``board``: finds the watches concerned, and whether they rely on it, and schedules their reads.
4. ``reading``, with ``rows`` and ``values``: reads many rows in one SELECT, and compares them.
5. ``watcher`` and ``wait``: what users call; ``caller`` gives the session its refreshed instance.

A notification is a hint; the row is the truth. A wait ends only when a read shows watched columns
that differ from the baseline. A notification or the schedule causes a read. Everything after that
is the same code.
"""
