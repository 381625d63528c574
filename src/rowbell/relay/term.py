"""One term of a relay: from the moment when it leads to the end of its LISTEN connection.

::

    a process's request → receive() → the next round: one statement for all → its answer
    a notification      → _notified() → the processes that need the row

A request is never answered from memory: each answer follows statements that began after the request
arrived, and that registered its rows, again if need be. Requests that arrive meanwhile share the
next round. So the connection's statements do not depend on the number of processes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.notification import Merged, Notification
from rowbell._watch.notifiers.payload import BROADCAST, Announcement, decode
from rowbell._watch.reasons import Reason
from rowbell._watch.wire import messages
from rowbell.relay.outgoing import Outgoing
from rowbell.relay.role_listener import RoleListener
from rowbell.relay.session import Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from rowbell._watch.database.answers import Server
    from rowbell._watch.database.relay_calls import RelayCalls
    from rowbell._watch.timing import Timing
    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell._watch.wire.transport import Peer

_KEYS: Final = 5_000
"""With more keys in one message, it says "any row of the table"."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request that waits for its answer.

    Attributes:
        session: Whose it is.
        number: Its number.
        message: What is asked.
        since: When it arrived.
    """

    session: Session
    number: int
    message: messages.FromProcess
    since: float


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
        number: As given.
        channel: The channel on which tickets arrive.
        sessions: The sessions of the processes.
        outgoing: What is sent to them.
        notifications: The notifications that were received.
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
        self.number: int = number
        self.channel: str = f"{BROADCAST}_relay_{secrets.token_hex(16)}"
        self.sessions: Sessions = Sessions()
        self.outgoing: Outgoing = Outgoing(
            number,
            secrets.token_hex(8),
            lasts=rhythm.speak,
            clock=clock,
            held=self._wake.set,
        )
        self.notifications: int = 0
        self.gaps: Counter[str] = Counter()
        self.answer_time: float = 0.0
        self._calls = calls
        self._server = server
        self._reads_per_second = reads_per_second
        self._timing = timing
        self._rhythm = rhythm
        self._clock = clock
        self._listeners: dict[int, RoleListener] = {}
        self._received: dict[RoleListener, Merged] = {}
        self._tickets: dict[str, Session] = {}
        self._pending: list[_Pending] = []
        self._unsent: int | None = None
        self._must_check = False
        self._is_stopping = False

    @property
    def rows(self) -> int:
        """How many rows are registered."""
        return sum(len(listener.registered) for listener in self._listeners.values())

    def stop(self) -> None:
        """End ``run`` after the current round."""
        self._is_stopping = True
        self._wake.set()

    def wake(self) -> None:
        """Make ``run`` look whether there is something to do."""
        self._wake.set()

    # -- what processes say

    def receive(self, peer: Peer, data: bytes) -> None:
        """Process a request. The transport calls this, in the order of arrival."""
        try:
            request = messages.decode_request(data)
        except messages.UnreadableError as error:
            if error.head is not None:
                stranger = Session(error.head.session, peer, 0.0)
                self.outgoing.end(stranger, Reason.RELAY_OUTDATED, str(error))
            return
        session = self.sessions.find(request.session)
        if session is None and isinstance(request.message, messages.Hello) and request.number == 1:
            session = Session(request.session, peer, self._clock())
            self.sessions.add(session)
            self.outgoing.send(session, messages.Welcome(self.channel))
        elif session is None or session.peer != peer:
            stranger = Session(request.session, peer, 0.0)
            why = "the relay does not know this session"
            self.outgoing.end(stranger, Reason.CONNECTION_LOST, why)
        elif request.number == session.received + 1:
            session.received += 1
            self._take_in(session, request)
        elif request.number > session.received:
            self._end(session, Reason.CONNECTION_LOST, "a request was lost on the way to the relay")

    def _take_in(self, session: Session, request: messages.Request) -> None:
        message = request.message
        if isinstance(message, messages.Ping):
            self._pinged(session, message)
        elif isinstance(message, messages.Leave):
            self._forget(session)
        elif session.listener is None:
            self._end(session, Reason.NOT_PERMITTED, "a request came before the introduction")
        elif isinstance(message, messages.Unregister):
            row_ids = [messages.row_id(row) for row in message.rows]
            self._listeners[session.listener].release(session, session.release(row_ids))
        else:
            if isinstance(message, messages.Register):
                if not self._want(session, message):
                    return
                needed = [row.row_id for row in message.rows]
                self._listeners[session.listener].need(session, needed)
            self._pending.append(_Pending(session, request.number, message, self._clock()))
        self._wake.set()

    def _pinged(self, session: Session, ping: messages.Ping) -> None:
        session.pinged = self._clock()
        if (ping.rows, ping.checksum) != (len(session.row_set), session.row_set.checksum):
            why = "the process and the relay do not agree on which rows are registered"
            self._end(session, Reason.CONNECTION_LOST, why)
            return
        polling = len(self.sessions) / self._reads_per_second
        self.outgoing.send(session, messages.Pong(ping.number, polling))

    def _want(self, session: Session, message: messages.Register) -> bool:
        """The process needs these rows from now on."""
        entries = {table.oid: table.entry for table in message.tables}
        rows = [(row.row_id, row.named) for row in message.rows]
        for row_id, columns in rows:
            entry = entries.get(row_id.table_oid)
            if entry is None or not (columns or frozenset()) <= entry.columns:
                why = "a row was asked for, and not its table with the watched columns"
                self._end(session, Reason.RELAY_OUTDATED, why)
                return False
        session.want(entries.values(), rows)
        return True

    def gone(self, peer: Peer) -> None:
        """A process can no longer be reached."""
        for session in self.sessions.of(peer):
            self._forget(session)

    def _forget(self, session: Session) -> None:
        if session.listener is not None:
            row_ids = session.release(list(session.rows))
            self._listeners[session.listener].release(session, row_ids)
        self.sessions.remove(session)

    def _end(self, session: Session, reason: Reason, detail: str) -> None:
        """End a session, and tell its process so. That needs no term: it cannot harm."""
        self._forget(session)
        self.outgoing.end(session, reason, detail)

    def end_all(self, reason: Reason, detail: str) -> None:
        """End all sessions."""
        for session in self.sessions:
            self._end(session, reason, detail)

    # -- what the database says

    def _on_ticket(self, ticket: str) -> None:
        """A process has introduced itself."""
        parts = ticket.split(":")
        if len(parts) == 4 and (session := self.sessions.introduced(parts[2])):  # noqa: PLR2004
            self._tickets[ticket] = session
            self._wake.set()

    def _notified(self, listeners: Iterable[RoleListener], payload: str) -> None:
        """Process a payload. All that arrive in one turn of the event loop are merged."""
        said = decode(payload)
        if isinstance(said, Announcement):
            self._must_check = True
            self._wake.set()
        elif said is not None:
            self.notifications += 1
            if not self._received:
                asyncio.get_running_loop().call_soon(self._pass_on)
            for listener in listeners:
                self._received.setdefault(listener, Merged()).add(said)

    def _pass_on(self) -> None:
        received, self._received = self._received, {}
        for listener, merged in received.items():
            said = (
                [Notification(None, None)]
                if merged.everything
                else [
                    Notification(oid, None if keys is None else tuple(keys))
                    for oid, keys in merged.keys.items()
                ]
            )
            for notification in said:
                concerned = listener.concerned(notification.table_oid, notification.keys)
                for session, keys in concerned.items():
                    few = keys if keys is None or len(keys) <= _KEYS else None
                    self.outgoing.send(session, messages.Changed(notification.table_oid, few))

    # -- the task

    async def begin(self, prove: Callable[[], Awaitable[None]]) -> None:
        """Listen, and prove that notifications arrive."""
        await self._calls.calls.close_listener()
        await self._calls.calls.listen(BROADCAST, self._on_broadcast)
        await self._calls.calls.listen(self.channel, self._on_ticket)
        await prove()
        await self._beat()

    def _on_broadcast(self, payload: str) -> None:
        self._notified(list(self._listeners.values()), payload)

    async def run(self) -> None:
        """Answer requests, and query the server, until stopped.

        Raises:
            CannotNotifyError: The connection is lost, or is no longer a leader's.
        """
        next_beat = next_check = self._clock() + self._rhythm.ping
        while not self._is_stopping:
            self._wake.clear()
            if self._calls.calls.closed:
                raise CannotNotifyError(Reason.CONNECTION_LOST, "the server closed the connection")
            await self._round()
            if self._clock() >= next_beat or self.outgoing.depth:
                await self._beat()
                next_beat = self._clock() + self._rhythm.ping
                self._forget_silent()
            if self._clock() >= next_check:
                await self._check()
                next_check = self._clock() + self._timing.heartbeat
            if self._must_check:  # any role may announce a change of triggers
                self._must_check = False
                next_check = min(next_check, self._clock() + self._rhythm.ping)
            with anyio.move_on_after(max(min(next_beat, next_check) - self._clock(), 0)):
                await self._wake.wait()

    async def _confirmed(self, call: Awaitable[T]) -> T:
        """Call the database. Its answer shows that this relay led when it asked."""
        asked = self._clock()
        answer = await call
        self.outgoing.confirmed(asked)
        return answer

    async def _beat(self) -> None:
        beat = await self._confirmed(self._calls.beat())
        if beat.in_recovery:
            raise CannotNotifyError(Reason.IN_RECOVERY, "the server has become a standby")
        if beat.backend_pid != self._server.backend_pid:
            why = "the connection has moved to another server process, which does not listen"
            raise CannotNotifyError(Reason.NOT_DELIVERED, why)
        before, self._unsent = self._unsent, beat.unsent
        if before is not None and beat.unsent != before:
            boundary = await self._confirmed(self._calls.calls.boundary())
            missed = f"{beat.unsent - before} notifications were not sent"
            for session in self.sessions:
                self._tell_gap(session, messages.Missed(boundary, missed), "not sent")

    def _tell_gap(self, session: Session, missed: messages.Missed, cause: str) -> None:
        if session.listener is not None:
            self.gaps[cause] += 1
            self.outgoing.send(session, missed)

    def _forget_silent(self) -> None:
        """Forget processes that do not ping, for good: a ping that comes later finds no session."""
        since = self._clock() - self._rhythm.forget
        for session in self.sessions:
            if session.pinged < since:
                why = f"no ping arrived for {self._rhythm.forget:g}s"
                self._end(session, Reason.CONNECTION_LOST, why)

    async def _check(self) -> None:
        """Find out whether everything is registered, and how the tables are."""
        for listener in list(self._listeners.values()):
            await self._confirmed(listener.heartbeat())
            await self._tell_changed(listener)
            await self._tell_refused(listener)

    async def _tell_changed(self, listener: RoleListener, boundary: int | None = None) -> None:
        """Tell processes that their tables, or the triggers of these, have changed."""
        if not (changed := listener.take_changed()):
            return
        if boundary is None:
            boundary = await self._confirmed(self._calls.calls.boundary())
        for session in listener.sessions:
            if tables := sorted(changed & session.tables.keys()):
                self._tell_gap(session, messages.Missed(boundary, "", tables), "table changed")

    async def _tell_refused(self, listener: RoleListener) -> None:
        """Tell processes that other tables of theirs cannot notify than before."""
        for session in listener.sessions:
            refused = await listener.refused(session)
            if refused != session.refused:
                session.refused = refused
                self.outgoing.send(session, messages.CannotNotify(refused))

    # -- a round

    async def _round(self) -> None:
        """Answer all requests that have arrived."""
        tickets, self._tickets = self._tickets, {}
        if tickets:
            await self._admit(tickets)
        pending, self._pending = self._pending, []
        for listener in list(self._listeners.values()):
            asked = [one for one in pending if one.session.listener == listener.number]
            registers = [one for one in asked if isinstance(one.message, messages.Register)]
            if registers:
                await self._register(listener, registers)
            await self._confirmed(listener.unregister())
        others = [one for one in pending if not isinstance(one.message, messages.Register)]
        if others:
            await self._answer_others(others)

    async def _admit(self, tickets: dict[str, Session]) -> None:
        found = await self._confirmed(self._calls.admit(list(tickets)))
        for session, listener in zip(tickets.values(), found, strict=True):
            if listener is None:
                why = "the database did not accept the ticket of this session"
                self._end(session, Reason.NOT_PERMITTED, why)
                continue
            if listener.number not in self._listeners:
                await self._listen_for(listener.number, listener.channel)
            if session.listener is None:
                session.listener = listener.number
                self.outgoing.send(session, messages.Admitted(self._server.started))

    async def _listen_for(self, number: int, channel: str) -> None:
        added = RoleListener(number, self._calls, self._server.backend_pid)
        await self._calls.calls.listen(channel, lambda payload: self._notified([added], payload))
        self._listeners[number] = added

    async def _register(self, listener: RoleListener, asked: list[_Pending]) -> None:
        """Register what was asked for, in one statement; one by one if that is too much."""
        rows = [
            row.row_id
            for one in asked
            if isinstance(one.message, messages.Register)
            for row in one.message.rows
        ]
        registered = await self._confirmed(listener.register([one.session for one in asked], rows))
        if registered is None and len(asked) > 1:
            for one in asked:
                await self._register(listener, [one])
            return
        boundary, missing = registered or (None, frozenset())
        await self._tell_changed(listener, boundary)
        for one in asked:
            refused = await listener.refused(one.session)
            known = {each.oid for each in refused}
            for oid in {row_id.table_oid for row_id in missing & one.session.rows.keys()} - known:
                why = Reason.NOT_PERMITTED.value
                refused.append(messages.Refused(oid, why, await listener.name(oid)))
            one.session.refused = refused
            self._answer(one, messages.Registered(one.number, refused, boundary))

    async def _answer_others(self, asked: list[_Pending]) -> None:
        """Answer requests that are answered for all processes at once."""
        boundary = await self._confirmed(self._calls.calls.boundary())
        looks = [m for one in asked if isinstance(m := one.message, messages.LookForWriters)]
        gone: set[int] = set()
        if looks:
            tables = sorted({oid for look in looks for oid in look.tables})
            highest = max(look.boundary for look in looks)
            look = self._calls.calls.tables_without_writers(tables, highest)
            gone = set(await self._confirmed(look))
        for one in asked:
            if isinstance(one.message, messages.LookForWriters):
                free = sorted(gone.intersection(one.message.tables))
                self._answer(one, messages.WithoutWriters(one.number, free))
            else:
                self._answer(one, messages.Boundary(one.number, boundary))

    def _answer(self, pending: _Pending, message: messages.FromRelay) -> None:
        if self.sessions.find(pending.session.secret) is pending.session:
            self.answer_time = self._clock() - pending.since
            self.outgoing.send(pending.session, message)
