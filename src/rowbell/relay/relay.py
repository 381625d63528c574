"""Relay: stands by, leads, and stands by again, for one database."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Self

import anyio

from rowbell._cancellation import complete, own_cancellations
from rowbell._libpq import UntranslatableError
from rowbell._watch.connections import Connections, check_engine
from rowbell._watch.database.calls import Calls
from rowbell._watch.database.relay_calls import RelayCalls
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.delivery import prove_delivery
from rowbell._watch.notifiers.refusals import described, reason_of, refuse_unsuitable
from rowbell._watch.reasons import Reason
from rowbell._watch.timing import Backoff, Timing
from rowbell._watch.wire.rhythm import Rhythm
from rowbell._watch.wire.stream import SocketPort
from rowbell._watch.wire.transport import LinkError
from rowbell.errors import InvalidArgumentError, WatcherStateError
from rowbell.relay.log import RelayLog
from rowbell.relay.status import RelayState, RelayStatus
from rowbell.relay.term import Term

if TYPE_CHECKING:
    import os
    import ssl
    from asyncio import Task
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._watch.listen_connection import ListenConnect
    from rowbell._watch.wire.transport import Port


class Relay:
    """Listens for many processes, with one LISTEN connection.

    It needs a role that may call the functions ``rowbell.lead`` and ``rowbell.admit``, and no right
    on any table: what a process may be notified of is decided by the process's own role.

    Args:
        engine: An engine of the database. The connection that listens is created as its connections
            are, and goes to the server itself, not to a transaction pooler.
        socket: The path of the unix socket on which the processes of this host connect.
        nats: Instead of a socket, the URL of a NATS server, or of several: for processes on any
            host. It has the relay's user, or ``credentials`` has it.
        name: Relays of one database with the same name stand by for each other (default: the host
            and the path of the socket, or the root of the subjects in NATS).
        socket_mode: The rights on that socket: who may write to it may connect (default 0o660).
        root: The first part of all subjects in NATS.
        credentials: The path of a file with the credentials of the relay's user in NATS.
        tls: The context for TLS to NATS.
        insecure: Run although the rights of users in NATS are not limited, or without TLS.
        listen_url: Another URL to LISTEN on, as for ``RowWatcher``.
        listen_connect: A function that creates the connection instead, as for ``RowWatcher``.
        reads_per_second: If the relay is lost, its processes poll. They poll so seldom that all
            together cause no more reads per second than this (default 500), if each reads once.
        timing: All other times.

    Attributes:
        engine: As given.

    Raises:
        UnsupportedEngineError: It is not an ``AsyncEngine``, or its sessions share a connection.
        InvalidArgumentError: One of the other arguments is invalid.

    Example:
        .. code-block:: python

            async with Relay(engine, socket="relay.sock") as relay:
                await relay.reached(lambda now: now.state is RelayState.LEADING)
                print(relay.status().sessions, "processes")
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        socket: str | os.PathLike[str] | None = None,
        nats: str | Sequence[str] | None = None,
        name: str | None = None,
        socket_mode: int = 0o660,
        root: str = "rowbell",
        credentials: str | None = None,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
        listen_url: str | URL | None = None,
        listen_connect: ListenConnect | None = None,
        reads_per_second: float = 500.0,
        timing: Timing | None = None,
    ) -> None:
        check_engine(engine)
        if not reads_per_second > 0:
            raise InvalidArgumentError("reads_per_second", reads_per_second, "a positive number")
        self.engine: AsyncEngine = engine
        self._timing = timing or Timing()
        self._rhythm = Rhythm()
        self._port: Port
        if nats is not None and socket is None:
            from rowbell._watch.wire.nats import NatsPort  # noqa: PLC0415  # an extra's
            from rowbell._watch.wire.nats_connection import (  # noqa: PLC0415  # the same
                NatsServers,
            )

            servers = NatsServers.of(nats, credentials, tls, insecure=insecure)
            self._port = NatsPort(servers, root=root, insecure=insecure)
        elif socket is not None and nats is None:
            self._port = SocketPort(socket, socket_mode)
        else:
            raise InvalidArgumentError("socket", socket, "a path, or None beside nats")
        self._name = self._port.name if name is None else name
        self._reads_per_second = reads_per_second
        self._connections = Connections(engine)
        self._listen_connection = ListenConnection(engine, listen_url, listen_connect, self._timing)
        self._lost: LinkError | None = None
        self._term: Term | None = None
        self._last_term = 0
        self._notifications = 0
        self._messages = 0
        self._gaps: Counter[str] = Counter()
        self._log = RelayLog(engine.url.database)
        self._stopping = asyncio.Event()
        self._task: Task[None] | None = None

    # -- start and stop

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise WatcherStateError(f"{self!r} cannot be entered twice: create a new one")
        self._task = asyncio.create_task(self._run(), name=f"rowbell {self!r}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the relay. Its processes are told, and poll until another one leads."""
        self.stop()
        if self._task is not None:
            await complete(self._task, self._timing.close)

    def stop(self) -> None:
        """Begin to close."""
        self._stopping.set()
        if self._term is not None:
            self._term.stop()

    async def wait_closed(self) -> None:
        """Wait until it is closed.

        Raises:
            Exception: It has failed.
        """
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task.result()

    # -- what it does

    def status(self) -> RelayStatus:
        """What the relay is doing now; see ``RelayStatus``."""
        term = self._term
        return RelayStatus(
            state=self._log.state,
            since=self._log.since,
            reason=self._log.reason,
            detail=self._log.detail,
            term=self._last_term,
            sessions=len(term.desk.sessions) if term else 0,
            rows=term.rows if term else 0,
            notifications=self._notifications + (term.notifications if term else 0),
            messages=self._messages + (term.outgoing.sent if term else 0),
            held=term.outgoing.depth if term else 0,
            gaps=dict(self._gaps + term.gaps if term else self._gaps),
            answer_time=term.answer_time if term else 0.0,
        )

    async def reached(self, condition: Callable[[RelayStatus], object]) -> None:
        """Wait until a condition on the status is true: ``lambda now: now.sessions == 20``.

        Raises:
            WatcherStateError: The relay is closed before that.
        """
        while not condition(self.status()):
            if self._log.state is RelayState.CLOSED:
                raise WatcherStateError(f"{self!r} is closed")
            self._log.changed.clear()
            with anyio.move_on_after(0.05):  # the counts change without an event
                await self._log.changed.wait()

    def __repr__(self) -> str:
        return f"<Relay of {self.engine.url.database!r}, {self._log.state}>"

    # -- the task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._timing, limit=self._rhythm.pause)
        try:
            with own_cancellations():
                while not self._stopping.is_set():
                    begun = loop.time()
                    self._log.enter(RelayState.CONNECTING, self._log.reason, self._log.detail)
                    reason, detail = await self._connected()
                    if self._stopping.is_set():
                        break
                    self._log.enter(RelayState.CONNECTING, reason, detail)
                    await self._pause(backoff.delay(healthy_for=loop.time() - begun))
        finally:
            self._log.enter(RelayState.CLOSED)

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    async def _connected(self) -> tuple[Reason, str]:
        """Connect, stand by, and lead; return why that has ended."""
        self._lost = None
        try:
            async with (
                self._port.connected(self._port_lost),
                self._listen_connection.opened() as connection,
            ):
                await self._stand_by_and_lead(Calls(connection, self._timing.answer))
        except CannotNotifyError as error:
            return error.reason, error.detail
        except LinkError as error:
            reason = Reason.NOT_PERMITTED if error.is_forbidden else Reason.CONNECTION_LOST
            return reason, error.detail
        except UntranslatableError as error:
            return Reason.UNSUPPORTED, str(error)
        except Exception as error:  # noqa: BLE001  # of any driver or hook
            return reason_of(error), described(error)
        return Reason.CONNECTION_LOST, "closed"

    def _port_lost(self, error: LinkError) -> None:
        """Processes cannot reach this relay any more."""
        self._lost = error
        if self._term is not None:
            self._term.stop()

    async def _stand_by_and_lead(self, connection: Calls) -> None:
        server = await connection.identify()
        refuse_unsuitable(server)
        # Before the lock: in the session of a transaction pooler it would stay behind.
        await self._prove(connection)
        calls = RelayCalls(connection)
        await calls.prepare_session(self._rhythm.idle)
        number = await self._stand_by(calls)
        if number is None:
            return
        term = Term(
            number,
            calls,
            server,
            reads_per_second=self._reads_per_second,
            timing=self._timing,
            rhythm=self._rhythm,
            clock=asyncio.get_running_loop().time,
        )
        await term.begin(lambda: self._prove(connection))
        async with self._port.open(term.desk.receive, term.desk.gone):
            why = "the relay has lost its place"
            self._last_term, self._term = number, term
            self._log.enter(RelayState.LEADING)
            try:
                if self._stopping.is_set() or self._lost is not None:
                    term.stop()
                await term.run()
                if self._lost is not None:
                    raise self._lost
                why = "the relay is leaving"
                term.desk.end_all(Reason.CONNECTION_LOST, why)
                await calls.close()
            finally:
                self._log.enter(RelayState.CONNECTING)
                term.desk.end_all(Reason.CONNECTION_LOST, why)
                self._notifications += term.notifications
                self._messages += term.outgoing.sent
                self._gaps += term.gaps
                self._term = None

    async def _prove(self, connection: Calls) -> None:
        await prove_delivery(connection, self._connections.notify, self._timing.proof)

    async def _stand_by(self, calls: RelayCalls) -> int | None:
        """Become the leader; return the term's number, or ``None`` if it was stopped before."""
        role = await calls.role()
        while not self._stopping.is_set():
            leader = await calls.lead(self._name)
            if self._lost is not None:
                raise self._lost
            if leader.term is not None:
                return leader.term
            if leader.role is not None and leader.role != role:
                why = (
                    f"process {leader.pid} of role {leader.role!r} holds the lock by which relays "
                    f"elect a leader, and relays here have the role {role!r}: end that session"
                )
                self._log.enter(RelayState.CONNECTING, Reason.NOT_PERMITTED, why)
            else:
                self._log.enter(RelayState.STANDING_BY)
                if leader.pid is not None:
                    await calls.end_stuck(leader.pid)
            await self._pause(self._rhythm.attempt)
        return None
