"""A model of a PostgreSQL server with rowbell's triggers, for tests of the board.

It does no I/O and has no clock. It has transactions with ids, snapshots, registrations and
notifications. The trigger runs when a transaction writes, and sees the registrations that are
committed at that time. Its notification is sent when the transaction commits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rowbell._watch.values.key_hash import WHOLE_TABLE


@dataclass(frozen=True)
class Snapshot:
    """A snapshot: the committed values, and the lowest transaction id that is still running."""

    values: dict[int, int | None]
    xmin: int


@dataclass(eq=False)
class Transaction:
    """A writer's transaction."""

    xid: int
    written: dict[int, int | None] = field(default_factory=dict[int, "int | None"])
    notifies: set[int] = field(default_factory=set[int])
    is_muted: bool = False


class World:
    """One server with one table and one listener.

    Args:
        rows: The number of rows. All start with the value 0.

    Attributes:
        values: The committed value of each row; ``None`` if the row does not exist.
        running: The transactions that have an id and have not ended.
        registered: The rows whose registration is committed.
        sent: The notifications that the listener has not received yet.
        unsent: The number of notifications that could not be sent so far.
        has_triggers: Whether the table has its triggers.
        version: Changes when the triggers are created or dropped.
    """

    def __init__(self, rows: int) -> None:
        self.values: dict[int, int | None] = dict.fromkeys(range(rows), 0)
        self.running: list[Transaction] = []
        self.registered: set[int] = set()
        self.sent: list[int] = []
        self.unsent = 0
        self.has_triggers = True
        self.version = 0
        self._next_xid = 100
        self._next_value = 1

    def assign_xid(self) -> int:
        self._next_xid += 1
        return self._next_xid - 1

    def snapshot(self) -> Snapshot:
        running = [transaction.xid for transaction in self.running]
        return Snapshot(dict(self.values), min(running, default=self._next_xid))

    def begin(self, *, muted: bool = False) -> Transaction:
        transaction = Transaction(self.assign_xid(), is_muted=muted)
        self.running.append(transaction)
        return transaction

    def write(self, transaction: Transaction, row: int, *, deletes: bool = False) -> None:
        """An UPDATE, INSERT or DELETE. Its trigger looks for a registration of the row."""
        transaction.written[row] = None if deletes else self._next_value
        self._next_value += 1
        if self.has_triggers:
            transaction.notifies |= self.registered & {row, WHOLE_TABLE}

    def is_locked(self, row: int) -> bool:
        """Whether a transaction that has not ended has written that row."""
        return any(row in transaction.written for transaction in self.running)

    def commit(self, transaction: Transaction) -> None:
        self.running.remove(transaction)
        self.values |= transaction.written
        if transaction.is_muted:
            self.unsent += len(transaction.notifies)
        else:
            self.sent += sorted(transaction.notifies)

    def roll_back(self, transaction: Transaction) -> None:
        """Roll back. The counter of unsent notifications is a sequence and keeps its value."""
        self.running.remove(transaction)
        if transaction.is_muted:
            self.unsent += len(transaction.notifies)

    def is_without_writers(self, boundary: int) -> bool:
        """Whether no transaction with a lower id can still change the table.

        A writer locks the table before it writes. A transaction that has not written may have no
        lock.
        """
        return not any(t.written for t in self.running if t.xid < boundary)

    def toggle_triggers(self) -> None:
        """Drop the triggers or create them. This waits for the writers of the table."""
        self.has_triggers = not self.has_triggers
        self.version += 1

    def lose_connection(self) -> None:
        self.registered.clear()
        self.sent.clear()
