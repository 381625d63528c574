"""The contract of a notifier, which reports that rows may have changed.

A notifier need not deliver every notification, in order or only once: a notification only causes
a read. But it must *know* when it may have missed one, and report that. If it breaks one of these
promises, changes are lost:

1. ``register`` returns when the rows are registered, committed, and visible to all writers that
   begin from then on; its boundary is a transaction ID that was assigned after that.
2. A writer that begins after that, and changes a registered row, causes a notification once its
   change is visible, or a gap that ``check`` reports.
3. A notification that was lost on the way is a gap, or the session is lost. Then ``loss`` says
   why, and ``on_gap`` is called.
4. ``on_notification`` and ``on_gap`` are called in the event loop's thread, in order of arrival,
   and do not block.

A notifier has no access to watches, the schedule or reads. ``subscription`` connects it with the
board.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from rowbell._watch.database.tables import Columns, WatchedTable
    from rowbell._watch.notifiers.notification import Notification
    from rowbell._watch.reasons import Reason
    from rowbell._watch.values.key_hash import RowId

    Tables = Mapping[int, tuple[WatchedTable, Columns]]
    """The tables that are watched, by oid, with the columns that are watched in them."""


class CannotNotifyError(Exception):
    """A notifier cannot notify, or can no longer notify.

    Args:
        reason: Why, as a ``Reason``.
        detail: What was observed.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a table cannot notify.

    Attributes:
        reason: Why.
        table: The table, for a message.
    """

    reason: Reason
    table: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Notifications may have been missed.

    Attributes:
        boundary: A transaction ID that was assigned after the gap was found.
        detail: What was missed, for the log; empty if a table has changed.
        tables: The tables concerned; ``None`` for all.
    """

    boundary: int
    detail: str = ""
    tables: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a notifier has found about the watched tables.

    Attributes:
        obstacles: All tables that cannot notify, by oid.
        gaps: What may have been missed since the last report.
    """

    obstacles: Mapping[int, Obstacle] = field(default_factory=dict[int, Obstacle])
    gaps: Sequence[Gap] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to ``register``.

    Attributes:
        report: What was found about the tables. Rows of tables with an obstacle are not registered.
        boundary: A transaction ID that was assigned after the registration was committed;
            ``None`` if nothing was registered, because there would be too many rows.
    """

    report: Report
    boundary: int | None


@dataclass(frozen=True, slots=True)
class NotifierStatus:
    """The status of a notifier.

    Attributes:
        evidence: What has shown that notifications arrive; empty while they do not.
        notifications: The number of notifications that were received and understood.
        ignored: The number of received payloads that are not rowbell's.
        queue_usage: How much of what holds notifications for listeners was used when it was last
            checked: 1 is all of it. ``None`` if that is not known.
    """

    evidence: str = ""
    notifications: int = 0
    ignored: int = 0
    queue_usage: float | None = None


class Receiver(Protocol):
    """The methods that a notifier calls."""

    def on_notification(self, notification: Notification) -> None:
        """Rows may have changed."""
        ...

    def on_gap(self) -> None:
        """Notifications may have been missed. ``check``, which is to be called soon, finds out."""
        ...


class NotifierSession(Protocol):
    """One connection of a notifier, from its first message to its last."""

    @property
    def server(self) -> float:
        """The server that notifies, as ``Evidence`` identifies it."""
        ...

    @property
    def loss(self) -> CannotNotifyError | None:
        """Why no more notifications will arrive; ``None`` while they do."""
        ...

    async def register(self, rows: Sequence[tuple[RowId, Columns]], tables: Tables) -> Registered:
        """Make writers notify of these rows, each with the columns that are watched in it.

        Raises:
            CannotNotifyError: The session is lost.
        """
        ...

    async def unregister(self, row_ids: Sequence[RowId]) -> None:
        """Stop notifications of these rows."""
        ...

    async def check(self, tables: Tables) -> Report:
        """Find out whether the session still works, and whether anything was missed.

        Raises:
            CannotNotifyError: The session is lost.
        """
        ...

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> Collection[int]:
        """The tables of these that no transaction below the boundary can still change."""
        ...

    async def end(self) -> None:
        """Unregister all rows."""
        ...


class Notifier(Protocol):
    """Reports that rows may have changed."""

    @property
    def status(self) -> NotifierStatus:
        """The current status."""
        ...

    @property
    def longest_pause(self) -> float:
        """The longest pause between two attempts to connect, in seconds."""
        ...

    @property
    def polling(self) -> float:
        """The shortest interval at which to poll while it does not notify, in seconds: many others
        poll then, too. 0 for none.
        """
        ...

    def session(self, receiver: Receiver) -> AbstractAsyncContextManager[NotifierSession]:
        """Connect. The session ends with the block, or earlier if it is lost.

        Raises:
            CannotNotifyError: It cannot connect, or notifications do not arrive.
        """
        ...
