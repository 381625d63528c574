"""One term of a relay: from the moment when it leads to the end of its LISTEN connection.

::

    a process's request → desk    → the next round: one statement for all → its answer
    a notification      → fan_out → the processes that need the row

A request is never answered from memory: each answer follows statements that began after the request
arrived, and that registered its rows, again if need be. Requests that arrive meanwhile share the
next round. So the connection's statements do not depend on the number of processes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
from asyncpg import PostgresError

from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.payload import BROADCAST
from rowbell._watch.reasons import Reason
from rowbell._watch.wire import messages
from rowbell.relay.desk import Desk
from rowbell.relay.fan_out import FanOut
from rowbell.relay.outgoing import Outgoing
from rowbell.relay.role_listener import RoleListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rowbell._watch.database.answers import Server
    from rowbell._watch.database.relay_calls import RelayCalls
    from rowbell._watch.timing import Timing
    from rowbell._watch.values.key_hash import RowId
    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell.relay.desk import Pending
    from rowbell.relay.session import Session


class Term:
    """One term.

    Args:
        number: Its number.
        calls: The calls on the LISTEN connection.
        server: The server of that connection.
        reads_per_second: How many reads per second all processes together should cause if they
            lose the relay.
        timing: The relay's times.
        rhythm: The times between the processes and the relay.
        clock: The time, in seconds.

    Attributes:
        desk: What processes say.
        outgoing: What is sent to them.
        gaps: How often processes were told of a gap, by cause.
        answer_time: How long the last request waited for its answer, in seconds.
    """

    def __init__(
        self,
        number: int,
        calls: RelayCalls,
        server: Server,
        *,
        reads_per_second: float,
        timing: Timing,
        rhythm: Rhythm,
        clock: Callable[[], float],
    ) -> None:
        self._wake = asyncio.Event()
        self._listeners: dict[int, RoleListener] = {}
        self._channel = f"{BROADCAST}_relay_{secrets.token_hex(16)}"
        self.outgoing: Outgoing = Outgoing(
            number,
            secrets.token_hex(8),
            lasts=rhythm.speak,
            clock=clock,
            held=self._wake.set,
        )
        self.desk: Desk = Desk(
            self._channel,
            self._listeners,
            self.outgoing,
            reads_per_second=reads_per_second,
            rhythm=rhythm,
            clock=clock,
            wake=self._wake.set,
        )
        self.gaps: Counter[str] = Counter()
        self.answer_time: float = 0.0
        self._fan_out = FanOut(self.outgoing, self.desk.sessions, self._announced)
        self._calls = calls
        self._server = server
        self._timing = timing
        self._rhythm = rhythm
        self._clock = clock
        self._unsent: int | None = None
        self._must_check = False
        self._is_stopping = False

    @property
    def rows(self) -> int:
        """How many rows are registered."""
        return sum(len(listener.registered) for listener in self._listeners.values())

    @property
    def notifications(self) -> int:
        """How many notifications were received."""
        return self._fan_out.notifications

    def stop(self) -> None:
        """End ``run`` after the current round."""
        self._is_stopping = True
        self._wake.set()

    # -- the task

    async def begin(self, prove: Callable[[], Awaitable[None]]) -> None:
        """Listen, and prove that notifications arrive."""
        self._calls.answered = self.outgoing.confirmed
        self._calls.on_close(self._wake.set)
        await self._calls.listen(BROADCAST, self._on_broadcast)
        await self._calls.listen(self._channel, self.desk.on_ticket)
        await prove()
        await self._beat()

    def _on_broadcast(self, payload: str) -> None:
        self._fan_out.notified(list(self._listeners.values()), payload)

    def _announced(self) -> None:
        self._must_check = True
        self._wake.set()

    async def run(self) -> None:
        """Answer requests, and query the server, until stopped.

        Raises:
            CannotNotifyError: The connection is lost, or is no longer a leader's.
        """
        try:
            await self._run()
        finally:
            self._fan_out.close()

    async def _run(self) -> None:
        next_beat = next_check = self._clock() + self._rhythm.ping
        while not self._is_stopping:
            self._wake.clear()
            if self._calls.closed:
                raise CannotNotifyError(Reason.CONNECTION_LOST, "the server closed the connection")
            await self._round()
            if self._clock() >= next_beat or self.outgoing.depth:
                await self._beat()
                next_beat = self._clock() + self._rhythm.ping
                self.desk.forget_silent()
            if self._clock() >= next_check:
                await self._check()
                next_check = self._clock() + self._timing.heartbeat
            if self._must_check:  # any role may announce a change of triggers
                self._must_check = False
                next_check = min(next_check, self._clock() + self._rhythm.ping)
            with anyio.move_on_after(max(min(next_beat, next_check) - self._clock(), 0)):
                await self._wake.wait()

    async def _beat(self) -> None:
        """The short query, each second, which also shows that notifications could not be sent."""
        beat = await self._calls.beat()
        if beat.in_recovery:
            raise CannotNotifyError(Reason.IN_RECOVERY, "the server has become a standby")
        if beat.backend_pid != self._server.backend_pid:
            why = "the connection has moved to another server process, which does not listen"
            raise CannotNotifyError(Reason.NOT_DELIVERED, why)
        before, self._unsent = self._unsent, beat.unsent
        if before is not None and beat.unsent != before:
            boundary = await self._calls.boundary()
            count = beat.unsent - before
            missed = messages.Missed(boundary, f"{count} notifications were not sent")
            for session in self.desk.sessions:
                if session.listener is not None:
                    self._tell_gap(session, missed, "not sent")

    def _tell_gap(self, session: Session, missed: messages.Missed, cause: str) -> None:
        self.gaps[cause] += 1
        self.outgoing.send(session, missed)

    # -- tables

    async def _check(self) -> None:
        """Find out whether everything is registered, and how the tables are."""
        for listener in list(self._listeners.values()):
            await listener.heartbeat()
            await self._tell_changed(listener)
            await self._tell_refused(listener)

    async def _tell_refused(self, listener: RoleListener) -> None:
        """Tell processes that other tables of theirs cannot notify than before."""
        if not listener.has_news:
            return
        listener.has_news = False
        for session in listener.sessions:
            refused = await listener.refused(session)
            if refused != session.refused:
                session.refused = refused
                self.outgoing.send(session, messages.CannotNotify(refused))

    async def _tell_changed(self, listener: RoleListener, boundary: int | None = None) -> None:
        """Tell processes that their tables, or the triggers of these, have changed."""
        if not (changed := listener.take_changed()):
            return
        if boundary is None:
            boundary = await self._calls.boundary()
        for session in listener.sessions:
            if tables := sorted(changed & session.tables.keys()):
                self._tell_gap(session, messages.Missed(boundary, "", tables), "table changed")

    # -- a round

    async def _round(self) -> None:
        """Answer all requests that have arrived."""
        work = self.desk.take_work()
        if work.tickets:
            await self._admit(work.tickets)
        for listener in list(self._listeners.values()):
            for asked in work.registrations(listener.number):
                await self._register(listener, asked)
            await listener.unregister()
        if work.boundaries:
            boundary = await self._calls.boundary()
            for one in work.boundaries:
                self._answer(one, messages.Boundary(one.number, boundary))
        if work.looks:
            await self._look_for_writers(work.looks)

    async def _admit(self, tickets: dict[str, Session]) -> None:
        """Begin to listen for the roles of the processes that have introduced themselves."""
        found = await self._calls.admit(list(tickets))
        for session, listener in zip(tickets.values(), found, strict=True):
            if listener is None:  # anybody may have sent it, not only the session's process
                continue
            if listener.number not in self._listeners:
                await self._listen_for(listener.number, listener.channel)
            if session.listener is None and session in self.desk.sessions:
                self.desk.sessions.admit(session, listener.number)
                self.outgoing.send(session, messages.Admitted(self._server.started))

    async def _listen_for(self, number: int, channel: str) -> None:
        added = RoleListener(number, self._calls, self._server.backend_pid, self._clock)
        await self._calls.listen(channel, lambda payload: self._fan_out.notified([added], payload))
        self._listeners[number] = added

    async def _register(
        self, listener: RoleListener, asked: Sequence[Pending[messages.Register]]
    ) -> None:
        """Register what was asked for, in one statement; one by one if that fails."""
        rows = [messages.row_id(row) for one in asked for row in one.message.rows]
        sessions = [one.session for one in asked]
        registered: tuple[int, frozenset[RowId]] | None = None
        begun = self._clock()
        try:
            registered = await listener.register(sessions, rows)
        except PostgresError:
            if self._calls.closed:
                raise
            if len(asked) == 1:  # a migration has locked the table, for example
                listener.set_aside(sessions, rows, self._clock() - begun)
                registered = await self._calls.boundary(), frozenset(rows)
        if registered is None and len(asked) > 1:
            for one in asked:
                await self._register(listener, [one])
            return
        boundary, missing = registered or (None, frozenset())
        await self._tell_changed(listener, boundary)
        for one in asked:
            refused = one.session.refused = await listener.refused(one.session)
            lacking = {row_id.table_oid for row_id in missing & one.session.rows.keys()}
            why = Reason.NOT_PERMITTED.value
            for oid in lacking.difference(each.oid for each in refused):
                refused = [*refused, messages.Refused(oid, why, await listener.name(oid))]
            self._answer(one, messages.Registered(one.number, refused, boundary))
        await self._tell_refused(listener)

    async def _look_for_writers(self, asked: Sequence[Pending[messages.LookForWriters]]) -> None:
        """Answer for the highest boundary: it holds for the others, too."""
        tables = sorted({oid for one in asked for oid in one.message.tables})
        # A boundary that was not assigned yet would keep the others' tables from being free.
        latest = await self._calls.boundary()
        highest = min(max(one.message.boundary for one in asked), latest)
        gone = await self._calls.tables_without_writers(tables, highest)
        for one in asked:
            free = sorted(gone.intersection(one.message.tables))
            self._answer(one, messages.WithoutWriters(one.number, free))

    def _answer(self, pending: Pending[Any], message: messages.FromRelay) -> None:
        if pending.session in self.desk.sessions:
            self.answer_time = self._clock() - pending.since
            self.outgoing.send(pending.session, message)
