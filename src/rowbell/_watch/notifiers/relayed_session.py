"""A session of a process at a relay.

::

    Hello → Welcome → introduced in the database → Admitted → Register, Ping, … → Leave

What the relay has reported before an answer, gaps and tables that cannot notify, is reported with
that answer; what came after it is reported by the next check. So the board never gets them in
another order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio

from rowbell._watch.database.tables import TableEntry
from rowbell._watch.notifiers.contract import (
    CannotNotifyError,
    Gap,
    Obstacle,
    Registered,
    Report,
)
from rowbell._watch.notifiers.conversation import Conversation
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.reasons import Reason
from rowbell._watch.wire import messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from rowbell._watch.database.tables import Columns
    from rowbell._watch.notifiers.contract import Receiver, Tables
    from rowbell._watch.notifiers.names import Names
    from rowbell._watch.timing import Timing
    from rowbell._watch.values.key_hash import RowId
    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell._watch.wire.transport import Link

_ROWS: Final = 2_000
"""Rows in one message: NATS refuses messages of a megabyte."""

_MESSAGES: Final = 10
"""Requests that are sent before the first is answered: the relay need not store them all."""


class RelayedSession:
    """One session, from its first message to its last.

    Args:
        session_id: Its secret ID.
        receiver: The receiver of the notifications.
        names: Finds what only this process can find out about its tables.
        timing: The watcher's times.
        rhythm: The times between the process and the relay.

    Attributes:
        conversation: What is said in it.
        server: When the relay's server was started, in seconds.
        evidence: What has shown that notifications arrive.
        notifications: The number of notifications.
    """

    def __init__(
        self,
        session_id: str,
        receiver: Receiver,
        names: Names,
        timing: Timing,
        rhythm: Rhythm,
    ) -> None:
        self.conversation = Conversation(
            session_id,
            rhythm,
            timing.answer,
            said=self._said,
            missed=self._missed,
            lost=self._lost,
        )
        self.server = 0.0
        self.evidence = ""
        self.notifications = 0
        self._receiver = receiver
        self._names = names
        self._timing = timing
        self._channel = ""
        self._progress = asyncio.Event()
        self._obstacles: dict[int, Obstacle] = {}
        self._unreported: dict[int, Obstacle] = {}
        self._gaps: list[Gap] = []
        self._before: dict[int, tuple[dict[int, Obstacle], list[Gap]]] = {}
        self._hole = ""

    # -- the beginning and the end

    async def begin(self, link: Link, introduce: Callable[[str], Awaitable[None]]) -> None:
        """Begin the session, and prove that notifications of this database arrive.

        Args:
            link: The way to the relay.
            introduce: Introduces the session in the database, to the channel that it is given.

        Raises:
            CannotNotifyError: The relay does not answer, or serves another database.
        """
        self.conversation.begin(link)
        why = "the relay did not answer"
        await self._until(lambda: self._channel, Reason.CONNECTION_LOST, why)
        await introduce(self._channel)
        why = (
            "the relay answers, but did not receive a notification from this engine: it serves "
            "another database or server"
        )
        await self._until(lambda: self.server, Reason.NOT_DELIVERED, why)

    async def _until(self, reached: Callable[[], object], reason: Reason, why: str) -> None:
        with anyio.move_on_after(self._timing.proof):
            while not reached() and self.loss is None:
                self._progress.clear()
                await self._progress.wait()
        self.conversation.refuse_lost()
        if not reached():
            raise CannotNotifyError(reason, f"{why} within {self._timing.proof:g}s")

    async def end(self) -> None:
        """Leave: the relay unregisters all rows."""
        if self.loss is None:
            self.conversation.send(messages.Leave())

    @property
    def loss(self) -> CannotNotifyError | None:
        """Why no more notifications will arrive; ``None`` while they do."""
        return self.conversation.loss

    # -- what the relay says

    def _lost(self) -> None:
        self._progress.set()
        self._receiver.on_gap()

    def _missed(self, lost: int) -> None:
        self._hole = f"{lost} messages of the relay were lost"
        self._receiver.on_gap()

    def _said(self, message: messages.FromRelay) -> None:
        match message:
            case messages.Changed(table, keys):
                self.notifications += 1
                named = None if keys is None else tuple(keys)
                self._receiver.on_notification(Notification(table, named))
            case messages.Missed(boundary, detail, tables):
                concerned = None if tables is None else tuple(tables)
                self._gaps.append(Gap(boundary, detail, concerned))
                self._receiver.on_gap()
            case messages.CannotNotify(refused):
                self._obstacles = _obstacles(refused)
                self._unreported |= self._obstacles
                self._receiver.on_gap()
            case messages.Registered(to, refused):
                self._obstacles = _obstacles(refused)
                self._before[to] = ({**self._unreported, **self._obstacles}, self._gaps)
                self._unreported, self._gaps = {}, []
            case messages.Welcome(channel):
                self._channel = channel
                self._progress.set()
            case messages.Admitted(server):
                self.server = server
                self._progress.set()
            case _:
                pass

    # -- the contract

    async def register(self, rows: Sequence[tuple[RowId, Columns]], tables: Tables) -> Registered:
        """Register rows at the relay, which then takes a boundary."""
        with anyio.fail_after(self._timing.answer):
            untrusted, moved = await self._names.look(tables, only_new=True)
        entries = [TableEntry.of(oid, table, columns) for oid, (table, columns) in tables.items()]
        asked = [
            messages.Register.of(entries, rows[i : i + _ROWS])
            for i in range(0, max(len(rows), 1), _ROWS)
        ]
        answers = [
            answer
            for i in range(0, len(asked), _MESSAGES)
            for answer in await self.conversation.ask(*asked[i : i + _MESSAGES])
        ]
        obstacles, gaps = dict[int, Obstacle](), list[Gap]()
        boundary: int | None = 0
        for answer in answers:
            assert isinstance(answer, messages.Registered)  # noqa: S101  # the answer to that
            # What the relay has said since is for the next check, and not for this answer.
            refused, missed = self._before.pop(answer.to)
            obstacles |= refused
            gaps += missed
            if boundary is not None:
                boundary = None if answer.boundary is None else max(boundary, answer.boundary)
        if obstacles.keys() != self._obstacles.keys():
            self._receiver.on_gap()
        if moved and boundary is not None:
            gaps.append(Gap(boundary, tables=moved))
        return Registered(_report(tables, {**obstacles, **untrusted}, gaps), boundary)

    async def unregister(self, row_ids: Sequence[RowId]) -> None:
        """Tell the relay that these rows are no longer needed."""
        self.conversation.refuse_lost()
        self.conversation.rows.discard(row_ids)
        for i in range(0, len(row_ids), _ROWS):
            some = row_ids[i : i + _ROWS]
            self.conversation.send(messages.Unregister(messages.rows_of(some)))

    async def check(self, tables: Tables) -> Report:
        """What the relay has reported, and what this process finds out about its tables.

        Raises:
            CannotNotifyError: The session is lost.
        """
        self.conversation.refuse_lost()
        with anyio.fail_after(self._timing.answer):
            untrusted, moved = await self._names.look(tables)
        gaps: list[Gap] = []
        if moved or self._hole:
            hole, self._hole = self._hole, ""
            [answer] = await self.conversation.ask(messages.TakeBoundary())
            assert isinstance(answer, messages.Boundary)  # noqa: S101  # the answer to that
            gaps.append(Gap(answer.boundary, hole, None if hole else moved))
        self.conversation.refuse_lost()
        reported, self._gaps = self._gaps, []
        # A table that could not notify for a moment is reported, too: its rows are not registered.
        told, self._unreported = {**self._unreported, **self._obstacles}, {}
        if told.keys() != self._obstacles.keys():
            self._receiver.on_gap()
        return _report(tables, {**told, **untrusted}, [*gaps, *reported])

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> Collection[int]:
        """The tables of these that no transaction below the boundary can still change."""
        question = messages.LookForWriters(list(tables), boundary)
        [answer] = await self.conversation.ask(question)
        assert isinstance(answer, messages.WithoutWriters)  # noqa: S101  # the answer to that
        return answer.tables


def _report(tables: Tables, obstacles: Mapping[int, Obstacle], gaps: Sequence[Gap]) -> Report:
    """The report on these tables. The last gap has the highest boundary, which holds for all."""
    concerned = {oid: one for oid, one in obstacles.items() if oid in tables}
    return Report(concerned, sorted(gaps, key=lambda gap: gap.boundary))


def _obstacles(refused: Sequence[messages.Refused]) -> dict[int, Obstacle]:
    """What the relay says of tables that cannot notify."""
    known = {reason.value for reason in Reason}
    return {
        one.oid: Obstacle(
            Reason(one.reason) if one.reason in known else Reason.RELAY_OUTDATED, one.name
        )
        for one in refused
    }
