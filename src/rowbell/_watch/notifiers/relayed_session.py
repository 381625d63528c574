"""A session of a process at a relay.

::

    Hello → Welcome → introduced in the database → Admitted → Register, Ping, … → Leave

All that the relay says arrives in one call, ``receive``, which never waits, and in one sequence of
numbers: answers, notifications and gaps keep their order. So a gap that came before an answer is
reported with it, and one that came after it is reported by the next check. A hole in the sequence
is a gap.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.database.tables import TableEntry
from rowbell._watch.notifiers.contract import (
    CannotNotifyError,
    Gap,
    Obstacle,
    Registered,
    Report,
)
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.reasons import Reason
from rowbell._watch.wire import messages
from rowbell._watch.wire.rhythm import Freshness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from rowbell._watch.database.tables import Columns
    from rowbell._watch.notifiers.contract import Receiver, Tables
    from rowbell._watch.notifiers.names import Names
    from rowbell._watch.timing import Timing
    from rowbell._watch.values.key_hash import RowId
    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell._watch.wire.transport import Link

_ROWS: Final = 2_000
"""Rows in one message: NATS refuses messages of a megabyte."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer, with what the relay had reported before it."""

    message: messages.FromRelay
    gaps: tuple[Gap, ...]


class RelayedSession:
    """One session, from its first message to its last.

    Args:
        session_id: Its secret ID.
        receiver: The receiver of the notifications.
        names: Finds what only this process can find out about its tables.
        timing: The watcher's times.
        rhythm: The times between the process and the relay.

    Attributes:
        server: When the relay's server was started, in seconds.
        term: The number of the relay's term.
        channel: The relay's channel in the database; empty before the Welcome.
        loss: Why no more notifications will arrive; ``None`` while they do.
        evidence: What has shown that notifications arrive.
        notifications: The number of notifications.
        polling: The interval at which the relay wants its processes to poll without it, in seconds.
    """

    def __init__(
        self,
        session_id: str,
        receiver: Receiver,
        names: Names,
        timing: Timing,
        rhythm: Rhythm,
    ) -> None:
        self.server = 0.0
        self.term = 0
        self.channel = ""
        self.loss: CannotNotifyError | None = None
        self.evidence = ""
        self.notifications = 0
        self.polling = 0.0
        self._id = session_id
        self._receiver = receiver
        self._names = names
        self._timing = timing
        self._rhythm = rhythm
        self._loop = asyncio.get_running_loop()
        self._freshness = Freshness(rhythm.fresh, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._sent = 0
        self._received = 0
        self._epoch: str | None = None
        self._admitted: asyncio.Future[None] = self._loop.create_future()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[_Answered]] = {}
        self._rows = RowSet()
        self._obstacles: dict[int, Obstacle] = {}
        self._gaps: list[Gap] = []
        self._missed = ""

    # -- the beginning and the end

    async def begin(self, link: Link, introduce: Callable[[str], Awaitable[None]]) -> None:
        """Begin the session, and prove that notifications of this database arrive.

        Args:
            link: The way to the relay.
            introduce: Introduces the session in the database, to the channel that it is given.

        Raises:
            CannotNotifyError: The relay does not answer, or serves another database.
        """
        self._link = link
        self._freshness = Freshness(self._rhythm.fresh, self._loop.time())
        self._send(messages.Hello())
        self._beat()
        await self._within(self._welcomed, "the relay did not answer")
        await introduce(self.channel)
        why = (
            "the relay answers, but did not receive a notification from this engine: it serves "
            "another database or server"
        )
        await self._within(self._admitted, why, Reason.NOT_DELIVERED)

    async def _within(
        self, event: asyncio.Future[None], why: str, reason: Reason = Reason.CONNECTION_LOST
    ) -> None:
        with anyio.move_on_after(self._timing.proof):
            await asyncio.wait([event])
        self._refuse_lost()
        if not event.done():
            raise CannotNotifyError(reason, f"{why} within {self._timing.proof:g}s")

    async def end(self) -> None:
        """Leave: the relay unregisters all rows."""
        if self.loss is None:
            self._send(messages.Leave())

    def close(self) -> None:
        """Stop the timer. Nothing is received any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._lose(CannotNotifyError(Reason.CONNECTION_LOST, "closed"), silently=True)

    # -- what is sent

    def _send(self, message: messages.FromProcess) -> int:
        assert self._link is not None  # noqa: S101  # begin() has set it
        self._sent += 1
        request = messages.Request(session=self._id, number=self._sent, message=message)
        self._link.send(messages.encode(request))
        return self._sent

    async def _ask(self, *asked: messages.FromProcess) -> list[_Answered]:
        """Send messages; return their answers.

        Raises:
            CannotNotifyError: The session is lost, an answer was missed, or the answers came too
                late to rely on them.
        """
        self._refuse_lost()
        answers = [self._loop.create_future() for _ in asked]
        numbers = [self._send(message) for message in asked]
        self._answers.update(zip(numbers, answers, strict=True))
        try:
            with anyio.move_on_after(self._timing.answer):
                await asyncio.wait(answers)
            self._refuse_lost()
            if not all(answer.done() for answer in answers):
                why = f"the relay did not answer within {self._timing.answer:g}s"
                raise CannotNotifyError(Reason.CONNECTION_LOST, why)
            return [answer.result() for answer in answers]
        finally:
            for number in numbers:
                self._answers.pop(number, None)

    def _beat(self) -> None:
        """Ping, and find out whether an earlier ping was answered in time."""
        now = self._loop.time()
        if not self._freshness.holds(now):
            why = f"the relay has answered no ping of the last {self._rhythm.fresh:g}s"
            self._lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
            return
        number = self._freshness.ping(now)
        self._send(messages.Ping(number, len(self._rows), self._rows.checksum))
        due = min(now + self._rhythm.ping, self._freshness.until)
        self._timer = self._loop.call_at(due, self._beat)

    def _refuse_lost(self) -> None:
        if self.loss is None and not self._freshness.holds(self._loop.time()):
            why = "the event loop was blocked for too long to rely on what the relay has said"
            self._lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
        if self.loss is not None:
            raise CannotNotifyError(self.loss.reason, self.loss.detail)

    def lose(self, error: CannotNotifyError) -> None:
        """The way to the relay is closed."""
        self._lose(error)

    def _lose(self, error: CannotNotifyError, *, silently: bool = False) -> None:
        if self.loss is not None:
            return
        self.loss = error
        self._welcomed.cancel()
        self._admitted.cancel()
        for answer in self._answers.values():
            answer.cancel()
        if not silently:
            self._receiver.on_gap()

    # -- what is received

    def receive(self, data: bytes) -> None:
        """Process a message. The transport calls this, in the order of arrival."""
        if self.loss is not None:
            return
        try:
            answer = messages.decode_answer(data)
        except messages.UnreadableError as error:
            self._lose(CannotNotifyError(Reason.RELAY_OUTDATED, str(error)))
            return
        if answer.number == 0 and isinstance(answer.message, messages.Ended):
            self._ended(answer.message)
        elif self._is_next(answer):
            self._take_in(answer.message)

    def _is_next(self, answer: messages.Answer) -> bool:
        """Whether a message continues the sequence. Late ones fill no hole."""
        if self._epoch is None and isinstance(answer.message, messages.Welcome):
            self._epoch, self.term = answer.epoch, answer.term
        if answer.epoch != self._epoch or answer.number <= self._received:
            return False
        missed = answer.number - self._received - 1
        self._received = answer.number
        if missed and self._answers:
            why = f"{missed} messages of the relay were lost, perhaps an answer"
            self._lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
        elif missed:
            self._missed = f"{missed} messages of the relay were lost"
            self._receiver.on_gap()
        return self.loss is None

    def _take_in(self, message: messages.FromRelay) -> None:
        match message:
            case messages.Changed(table, keys):
                self.notifications += 1
                self._receiver.on_notification(
                    Notification(table, None if keys is None else tuple(keys))
                )
            case messages.Pong(number, polling):
                self.polling = polling
                self._freshness.answered(number)
            case messages.Missed(boundary, detail, tables):
                named = None if tables is None else tuple(tables)
                self._gaps.append(Gap(boundary, detail, named))
                self._receiver.on_gap()
            case messages.CannotNotify(refused):
                self._obstacles = _obstacles(refused)
                self._receiver.on_gap()
            case messages.Welcome(channel):
                self.channel = channel
                _set(self._welcomed, None)
            case messages.Admitted(server):
                self.server = server
                _set(self._admitted, None)
            case messages.Ended():
                self._ended(message)
            case messages.Registered(to, refused):
                self._obstacles = _obstacles(refused)
                self._answered(to, message)
            case messages.Boundary(to) | messages.WithoutWriters(to):
                self._answered(to, message)

    def _answered(self, to: int, message: messages.FromRelay) -> None:
        if answer := self._answers.get(to):
            gaps, self._gaps = tuple(self._gaps), []
            _set(answer, _Answered(message, gaps))

    def _ended(self, message: messages.Ended) -> None:
        known = {reason.value for reason in Reason}
        reason = Reason(message.reason) if message.reason in known else Reason.CONNECTION_LOST
        self._lose(CannotNotifyError(reason, message.detail))

    # -- the contract

    async def register(self, rows: Sequence[tuple[RowId, Columns]], tables: Tables) -> Registered:
        """Register rows at the relay, which then takes a boundary."""
        untrusted, moved = await self._names.look(tables, only_new=True)
        named = [
            messages.Table.of(TableEntry.of(oid, table, columns))
            for oid, (table, columns) in tables.items()
        ]
        wanted = [messages.Row.of(row_id, columns) for row_id, columns in rows]
        self._rows.add(row_id for row_id, _ in rows)
        answers = await self._ask(
            *(
                messages.Register(named, wanted[i : i + _ROWS])
                for i in range(0, max(len(wanted), 1), _ROWS)
            )
        )
        gaps = [gap for answer in answers for gap in answer.gaps]
        boundaries = [
            answer.message.boundary
            for answer in answers
            if isinstance(answer.message, messages.Registered)
        ]
        boundary = None
        if None not in boundaries:
            boundary = max(one for one in boundaries if one is not None)
            gaps += [Gap(boundary, tables=moved)] if moved else []
        return Registered(Report({**self._of(tables), **untrusted}, gaps), boundary)

    async def unregister(self, row_ids: Sequence[RowId]) -> None:
        """Tell the relay that these rows are no longer needed."""
        self._refuse_lost()
        self._rows.discard(row_ids)
        for i in range(0, len(row_ids), _ROWS):
            self._send(messages.Unregister(messages.rows_of(row_ids[i : i + _ROWS])))

    async def check(self, tables: Tables) -> Report:
        """What the relay has reported, and what this process finds out about its tables.

        Raises:
            CannotNotifyError: The session is lost.
        """
        self._refuse_lost()
        untrusted, moved = await self._names.look(tables)
        gaps: list[Gap] = []
        if moved or self._missed:
            missed, self._missed = self._missed, ""
            [answer] = await self._ask(messages.TakeBoundary())
            assert isinstance(answer.message, messages.Boundary)  # noqa: S101  # the answer to that
            gaps += answer.gaps
            concerned = None if missed else moved
            gaps.append(Gap(answer.message.boundary, missed, concerned))
        self._refuse_lost()
        reported, self._gaps = self._gaps, []
        return Report({**self._of(tables), **untrusted}, [*gaps, *reported])

    def _of(self, tables: Tables) -> dict[int, Obstacle]:
        return {oid: one for oid, one in self._obstacles.items() if oid in tables}

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> Collection[int]:
        """The tables of these that no transaction below the boundary can still change."""
        [answer] = await self._ask(messages.LookForWriters(list(tables), boundary))
        assert isinstance(answer.message, messages.WithoutWriters)  # noqa: S101  # the answer
        self._gaps[:0] = answer.gaps
        if answer.gaps:
            self._receiver.on_gap()
        return answer.message.tables


def _obstacles(refused: Sequence[messages.Refused]) -> dict[int, Obstacle]:
    """What the relay says of tables that cannot notify."""
    known = {reason.value for reason in Reason}
    return {
        one.oid: Obstacle(
            Reason(one.reason) if one.reason in known else Reason.RELAY_OUTDATED, one.name
        )
        for one in refused
    }


def _set(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
