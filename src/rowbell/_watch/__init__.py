"""Watching: from a change in the database to the wait that it ends.

In the order in which a change travels:

1. ``database``: a trigger finds out whether anybody waits for the changed rows, and notifies.
2. ``notifiers``: a connection receives the notification.
3. ``board``: which watches it concerns, whether they rely on it, and that they are to be read.
4. ``reading``, with ``rows`` and ``values``: many such rows in one SELECT, compared.
5. ``watcher`` and ``wait``: what users call; ``caller`` gives the session its refreshed row.

A notification is a hint; the row is the truth. A wait ends only when a read shows watched columns
that differ from the baseline. A read is caused by a notification or by the schedule, and all that
follows is the same code.
"""
