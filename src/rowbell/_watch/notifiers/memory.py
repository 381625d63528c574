"""A notifier in memory, for tests: it can be late, doubled, forged, or lose what it should send.

It represents a server with writers. A test changes rows, and decides what happens to the
notifications.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from rowbell._watch.notifiers.contract import (
    CannotNotifyError,
    Gap,
    NotifierStatus,
    Obstacle,
    Registered,
    Report,
)
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Generator, Sequence

    from rowbell._watch.database.tables import Columns
    from rowbell._watch.notifiers.contract import Receiver, Tables
    from rowbell._watch.values.key_hash import RowId


_LOST: Final = CannotNotifyError(Reason.CONNECTION_LOST, "the session is lost")


class MemoryNotifier:
    """Notifies of changes that a test makes.

    Attributes:
        obstacles: The tables that cannot notify, and why.
        is_reachable: Whether a session can begin.
        longest_pause: The longest pause between two attempts to connect.
        polling: The shortest interval at which to poll without it.
    """

    def __init__(self) -> None:
        self.obstacles: dict[int, Reason] = {}
        self.is_reachable = True
        self.longest_pause = 30.0
        self.polling = 0.0
        self._sessions: list[MemorySession] = []
        self._last_xid = 100
        self._writing: dict[int, list[int]] = {}
        self._notifications = 0
        self._ignored = 0

    # -- the contract

    @property
    def status(self) -> NotifierStatus:
        """The current status."""
        evidence = "the receiver is called directly" if self._sessions else ""
        return NotifierStatus(evidence, self._notifications, self._ignored)

    @asynccontextmanager
    async def session(self, receiver: Receiver) -> AsyncGenerator[MemorySession]:
        """Connect.

        Raises:
            CannotNotifyError: ``is_reachable`` is false; or the session was lost in the block.
        """
        if not self.is_reachable:
            raise CannotNotifyError(Reason.CONNECTION_LOST, "not reachable")
        session = MemorySession(self, receiver)
        self._sessions.append(session)
        try:
            yield session
        finally:
            session.loss = session.loss or _LOST
            if session in self._sessions:
                self._sessions.remove(session)

    # -- what a test does

    def change(self, row_id: RowId, columns: Collection[str] = ()) -> None:
        """Commit a change of these columns of a row; of all columns by default."""
        self.assign_xid()
        for session in self._sessions:
            if session.is_registered(row_id, columns):
                session.send(Notification(row_id.table_oid, (row_id.key_hash,)))

    @contextmanager
    def writing(self, table_oid: int) -> Generator[None]:
        """A transaction that has changed a table, and has not ended."""
        xid = self.assign_xid()
        self._writing.setdefault(table_oid, []).append(xid)
        yield
        self._writing[table_oid].remove(xid)

    @contextmanager
    def late(self) -> Generator[None]:
        """Hold the notifications of the block, and deliver them at its end."""
        for session in self._sessions:
            session.held = []
        yield
        for session in self._sessions:
            session.deliver()

    @contextmanager
    def losing(self) -> Generator[None]:
        """Lose the notifications of the block. The next check finds the gap."""
        for session in self._sessions:
            session.loses = True
        yield
        for session in self._sessions:
            session.loses = False

    def forge(self, notification: Notification) -> None:
        """Send a notification of a change that has not happened."""
        for session in self._sessions:
            session.send(notification)

    def redefine(self, table_oid: int) -> None:
        """Change a table or its triggers."""
        for session in self._sessions:
            session.redefined.append(table_oid)
            session.receiver.on_gap()

    def disconnect(self) -> None:
        """Lose all sessions."""
        lost, self._sessions = self._sessions, []
        for session in lost:
            session.loss = _LOST
            session.receiver.on_gap()

    # -- what sessions need

    def assign_xid(self) -> int:
        """A transaction ID."""
        self._last_xid += 1
        return self._last_xid

    def has_writers(self, table_oid: int, boundary: int) -> bool:
        """Whether a transaction below the boundary can still change a table."""
        return any(xid < boundary for xid in self._writing.get(table_oid, ()))

    def count(self) -> None:
        """Count a notification that was received."""
        self._notifications += 1


class MemorySession:
    """A session of a ``MemoryNotifier``.

    Attributes:
        server: Its server; there is only one.
        loss: Why no more notifications will arrive.
        receiver: The receiver of its notifications.
        held: The held notifications; ``None`` while none are held.
        loses: Whether notifications are lost.
        redefined: The tables that have changed.
    """

    def __init__(self, notifier: MemoryNotifier, receiver: Receiver) -> None:
        self._notifier = notifier
        self._registered: dict[RowId, Columns] = {}
        self._unsent = 0
        self.server = 1.0
        self.loss: CannotNotifyError | None = None
        self.receiver = receiver
        self.held: list[Notification] | None = None
        self.loses = False
        self.redefined: list[int] = []

    def is_registered(self, row_id: RowId, columns: Collection[str]) -> bool:
        """Whether a change of these columns of a row is notified."""
        if row_id not in self._registered:
            return False
        registered = self._registered[row_id]
        return registered is None or not columns or not registered.isdisjoint(columns)

    def send(self, notification: Notification) -> None:
        """Send a notification, or hold it, or lose it."""
        if self.loses:
            self._unsent += 1
        elif self.held is not None:
            self.held.append(notification)
        else:
            self._notifier.count()
            self.receiver.on_notification(notification)

    def deliver(self) -> None:
        """Send the held notifications."""
        held, self.held = self.held or [], None
        for notification in held:
            self.send(notification)

    # -- the contract

    async def register(self, rows: Sequence[tuple[RowId, Columns]], tables: Tables) -> Registered:
        """Register rows."""
        report = await self.check(tables)
        for row_id, columns in rows:
            if row_id.table_oid not in report.obstacles:
                self._registered[row_id] = columns
        return Registered(report, self._notifier.assign_xid())

    async def unregister(self, row_ids: Sequence[RowId]) -> None:
        """Unregister rows."""
        for row_id in row_ids:
            self._registered.pop(row_id, None)

    async def check(self, tables: Tables) -> Report:
        """Report obstacles and gaps.

        Raises:
            CannotNotifyError: The session is lost.
        """
        if self.loss is not None:
            raise self.loss
        known = self._notifier.obstacles
        obstacles = {oid: Obstacle(known[oid], f"table {oid}") for oid in tables if oid in known}
        gaps: list[Gap] = []
        if self.redefined:
            gaps.append(Gap(self._notifier.assign_xid(), tables=tuple(self.redefined)))
        if self._unsent:
            missed = f"{self._unsent} notifications were not sent"
            gaps.append(Gap(self._notifier.assign_xid(), missed))
        self.redefined, self._unsent = [], 0
        return Report(obstacles, gaps)

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> Collection[int]:
        """The tables of these that no writer below the boundary can still change."""
        return [oid for oid in tables if not self._notifier.has_writers(oid, boundary)]

    async def end(self) -> None:
        """Unregister all rows."""
        self._registered.clear()
