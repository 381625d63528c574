"""What processes say to a relay: their sessions, and the requests that wait for an answer.

Nothing here awaits: each message is processed when it arrives, in the order of arrival.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from rowbell._watch.reasons import Reason
from rowbell._watch.wire import envelopes, messages
from rowbell.relay.session import Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell._watch.wire.transport import Peer
    from rowbell.relay.outgoing import Outgoing
    from rowbell.relay.role_listener import RoleListener

_TICKET: Final = re.compile(r"[0-9]{1,10}:[0-9]{1,12}:([0-9a-f]{64}):[0-9a-f]{64}")
_TICKETS: Final = 500
"""How many tickets one round looks at. Any role may send some; processes try again."""

_ROWS_AT_ONCE: Final = 5_000
"""How many rows one statement registers, unless one request has more. Meanwhile nothing is sent."""

_ROWS: Final = 200_000
"""How many rows a process may ask for: what a role may register is limited apart from that."""

MessageT = TypeVar("MessageT", bound=messages.FromProcess)


@dataclass(frozen=True, slots=True)
class Pending(Generic[MessageT]):
    """A request that waits for its answer.

    Attributes:
        session: Whose it is.
        number: Its number.
        message: What is asked.
        since: When it arrived.
    """

    session: Session
    number: int
    message: MessageT
    since: float


class Work:
    """What has arrived for one round.

    Attributes:
        tickets: The tickets that were received, each with its session.
        registers: The registrations, by the number of their listener.
        looks: The questions for writers.
        boundaries: The questions for a boundary.
    """

    def __init__(self) -> None:
        self.tickets: dict[str, Session] = {}
        self.registers: defaultdict[int, list[Pending[messages.Register]]] = defaultdict(list)
        self.looks: list[Pending[messages.LookForWriters]] = []
        self.boundaries: list[Pending[messages.TakeBoundary]] = []

    def registrations(self, listener: int) -> Iterator[list[Pending[messages.Register]]]:
        """Those of a listener, in order, in parts that are not too large for one statement."""
        part: list[Pending[messages.Register]] = []
        rows = 0
        for one in self.registers[listener]:
            if part and rows + len(one.message.rows) > _ROWS_AT_ONCE:
                yield part
                part, rows = [], 0
            part.append(one)
            rows += len(one.message.rows)
        if part:
            yield part


class Desk:
    """The sessions of one term.

    Args:
        channel: The channel on which tickets arrive.
        listeners: The listeners of the roles, by their numbers.
        outgoing: What is sent to processes.
        reads_per_second: How many reads per second all processes together should cause if they
            lose the relay.
        rhythm: The times between the processes and the relay.
        clock: The time, in seconds.
        wake: Called when there is something to do.

    Attributes:
        sessions: The sessions.
    """

    def __init__(
        self,
        channel: str,
        listeners: Mapping[int, RoleListener],
        outgoing: Outgoing,
        *,
        reads_per_second: float,
        rhythm: Rhythm,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.sessions: Sessions = Sessions()
        self._channel = channel
        self._listeners = listeners
        self._outgoing = outgoing
        self._reads_per_second = reads_per_second
        self._rhythm = rhythm
        self._clock = clock
        self._wake = wake
        self._work = Work()

    def take_work(self) -> Work:
        """What has arrived since the last call."""
        work, self._work = self._work, Work()
        return work

    # -- what arrives

    def receive(self, peer: Peer, data: bytes) -> None:
        """Process a request. The transport calls this, in the order of arrival."""
        try:
            request = envelopes.decode_request(data)
        except envelopes.UnreadableError as error:
            if error.head is not None:
                stranger = Session(error.head.session, peer, 0.0)
                self._outgoing.refuse(stranger, Reason.RELAY_OUTDATED, str(error))
            return
        session = self.sessions.find(request.session)
        is_new = session is None and self.sessions.at(peer) is None
        if is_new and isinstance(request.message, messages.Hello) and request.number == 1:
            session = Session(request.session, peer, self._clock())
            self.sessions.add(session)
            self._outgoing.send(session, messages.Welcome(self._channel))
        elif session is None or session.peer != peer:
            stranger = Session(request.session, peer, 0.0)
            why = "the relay does not know this session"
            self._outgoing.refuse(stranger, Reason.CONNECTION_LOST, why)
        elif request.number == session.received + 1:
            session.received += 1
            self._take_in(session, request.message)
        elif request.number > session.received:
            self.end(session, Reason.CONNECTION_LOST, "a request was lost on the way to the relay")

    def _take_in(self, session: Session, message: messages.FromProcess) -> None:
        match message:
            case messages.Hello():
                pass  # it was said before
            case messages.Ping():
                self._pinged(session, message)
            case messages.Leave():
                self.forget(session)
                self._wake()
            case _ if session.listener is None:
                why = "a request came before the introduction"
                self.end(session, Reason.NOT_PERMITTED, why)
            case messages.Unregister(rows):
                row_ids = session.release(messages.row_id(row) for row in rows)
                self._listeners[session.listener].release(session, row_ids)
                self._wake()
            case messages.Register():
                self._register(session.listener, session, message)
            case messages.LookForWriters():
                self._work.looks.append(self._pending(session, message))
            case messages.TakeBoundary():
                self._work.boundaries.append(self._pending(session, message))

    def _pending(self, session: Session, message: MessageT) -> Pending[MessageT]:
        self._wake()
        return Pending(session, session.received, message, self._clock())

    def _pinged(self, session: Session, ping: messages.Ping) -> None:
        session.pinged = self._clock()
        if (ping.rows, ping.checksum) != (len(session.row_set), session.row_set.checksum):
            why = "the process and the relay do not agree on which rows are registered"
            self.end(session, Reason.CONNECTION_LOST, why)
            return
        polling = self.sessions.admitted / self._reads_per_second
        self._outgoing.send(session, messages.Pong(ping.number, polling))

    def _register(self, listener: int, session: Session, message: messages.Register) -> None:
        """The process needs these rows from now on."""
        if len(session.rows) + len(message.rows) > _ROWS:
            self.end(session, Reason.TOO_MANY_REGISTRATIONS, f"more than {_ROWS:,} rows")
            return
        entries = {table.oid: table.entry for table in message.tables}
        try:
            is_covered = session.want(entries, rows := message.wanted())
        except IndexError:
            is_covered, rows = False, []
        if not is_covered:
            why = "a row was asked for, and not its table with the watched columns"
            self.end(session, Reason.RELAY_OUTDATED, why)
            return
        self._listeners[listener].need(session, [row_id for row_id, _ in rows])
        self._work.registers[listener].append(self._pending(session, message))

    def on_ticket(self, ticket: str) -> None:
        """A process has introduced itself in the database."""
        found = _TICKET.fullmatch(ticket)
        session = self.sessions.introduced(found[1]) if found else None
        tickets = self._work.tickets
        if session is not None and session.listener is None and len(tickets) < _TICKETS:
            tickets[ticket] = session
            self._wake()

    # -- sessions end

    def gone(self, peer: Peer) -> None:
        """A process can no longer be reached."""
        if (session := self.sessions.at(peer)) is not None:
            self.forget(session)
            self._wake()

    def forget(self, session: Session) -> None:
        """Forget a session, for good: what its process says later finds no session."""
        if session.listener is not None:
            row_ids = session.release(list(session.rows))
            self._listeners[session.listener].release(session, row_ids)
        self.sessions.remove(session)

    def end(self, session: Session, reason: Reason, detail: str) -> None:
        """End a session, and tell its process so."""
        self.forget(session)
        self._outgoing.end(session, reason, detail)

    def end_all(self, reason: Reason, detail: str) -> None:
        """End all sessions."""
        for session in self.sessions:
            self.end(session, reason, detail)

    def forget_silent(self) -> None:
        """End the sessions whose processes do not ping, or do not introduce themselves."""
        since = self._clock() - self._rhythm.forget
        for session in self.sessions:
            if session.pinged < since:
                why = f"no ping arrived for {self._rhythm.forget:g}s"
                self.end(session, Reason.CONNECTION_LOST, why)
            elif session.listener is None and session.begun < since:
                why = f"no ticket arrived for {self._rhythm.forget:g}s"
                self.end(session, Reason.NOT_DELIVERED, why)
