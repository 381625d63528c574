"""One life of the LISTEN connection: what it listens to, and what stands registered for it.

::

    connect → LISTEN, and prove that notifications arrive → open_listener()
      → register what is wanted, heartbeat, register, … → lost, or stopped

That a server accepts LISTEN proves nothing: a transaction pooler does, and nothing ever arrives. So
it is proven by one notification that another connection sends. Heartbeats are queries, never
notifications, which would write WAL. A heartbeat finds a half-open connection, a pooler that has
swapped the server process and a standby, and it finds every gap: notifications that were not sent,
registrations that somebody has deleted, tables and triggers that are not what they were.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import anyio
from asyncpg import InsufficientPrivilegeError, PostgresError

from rowbell._watch.database.calls import Calls, checksum
from rowbell._watch.database.payload import BROADCAST, Heard, decode
from rowbell._watch.database.schema import SCHEMA_VERSION
from rowbell._watch.state import Reason, StateLog

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.connections import Connections
    from rowbell._watch.database.calls import TableState
    from rowbell._watch.timing import Timing

_NO_LISTEN = ("0A000", "42601")  # not supported, syntax error


class CannotListenError(Exception):
    """Nothing can be heard on this connection, for a reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class Listening:
    """What one LISTEN connection stands for, from its first query to its last.

    Args:
        calls: The connection's calls.
        board: Where notifications go, and what is to be registered.
        connections: For the notification that proves delivery.
        state: Where warnings go.
        timing: The watcher's times.

    Attributes:
        notifications: The notifications that were understood.
        ignored: Those that were not.
        wants_heartbeat: Whether triggers were announced to have changed.
    """

    def __init__(
        self,
        calls: Calls,
        board: Board,
        connections: Connections,
        state: StateLog,
        timing: Timing,
    ) -> None:
        self._calls = calls
        self._board = board
        self._connections = connections
        self._state = state
        self._timing = timing
        self._backend_pid = 0
        self._heard = Heard()
        self._unsent: int | None = None
        self._registered: set[tuple[int, int]] = set()
        self._versions: dict[int, object] = {}
        self.notifications = 0
        self.ignored = 0
        self.wants_heartbeat = False

    # -- beginning

    async def begin(self) -> float:
        """Listen, and be sure of it.

        Returns:
            The server, as ``Evidence`` names it.

        Raises:
            CannotListenError: It cannot listen here.
        """
        server = await self._calls.identify()
        if server.in_recovery:
            raise CannotListenError(Reason.IN_RECOVERY, "the server is a standby")
        _check_schema(server.schema, server.database)
        self._backend_pid = server.backend_pid
        await self._prove_delivery()
        await self._calls.prepare_session()
        try:
            channel = await self._calls.open_listener()
        except InsufficientPrivilegeError as error:
            raise CannotListenError(
                Reason.NOT_PERMITTED, f"rowbell.open_listener(): {error}"
            ) from error
        await self._calls.listen(channel, self._hear)
        await self.heartbeat()
        return server.started

    async def _prove_delivery(self) -> None:
        """LISTEN, and hear one notification that another connection has sent."""
        channel, heard = f"{BROADCAST}_{secrets.token_hex(16)}", asyncio.Event()
        try:
            await self._calls.listen(BROADCAST, self._hear)
            proof = await self._calls.listen(channel, lambda _: heard.set())
        except PostgresError as error:
            if error.sqlstate in _NO_LISTEN:
                raise CannotListenError(Reason.UNSUPPORTED, f"LISTEN: {error}") from error
            raise
        with anyio.move_on_after(self._timing.proof):
            await self._connections.notify(channel)
            await heard.wait()
        if not heard.is_set():
            why = f"LISTEN was accepted, but nothing arrived within {self._timing.proof:g}s"
            raise CannotListenError(Reason.NOT_DELIVERED, why)
        await self._calls.unlisten(channel, proof)

    def _hear(self, payload: str) -> None:
        """Asyncpg's callback: synchronous, in order, and no more than to remember it."""
        notification = decode(payload)
        if notification is None:
            self.ignored += 1
            return
        self.notifications += 1
        if notification.redefined:
            self.wants_heartbeat = True
            self._board.to_register.set()
        if not self._heard:
            asyncio.get_running_loop().call_soon(self._ring)
        self._heard.add(notification)

    def _ring(self) -> None:
        """Tell the board what has come in this turn of the event loop, each table and row once.

        Anybody may send thousands of notifications that all mean the same.
        """
        heard, self._heard = self._heard, Heard()
        if heard.everything:
            self._board.ring(None, None)
            return
        for table_oid, keys in heard.rows.items():
            self._board.ring(table_oid, keys)

    # -- registrations

    async def register(self) -> None:
        """Register what is wanted, and take the boundary after it."""
        batch = self._board.take_unregistered()
        if not batch:
            return
        rows = [(interest.name, columns) for interest, columns in batch]
        answer = await self._calls.register(self._board.tables(), rows)
        await self._look_at(answer.tables)
        if answer.over_limit:
            self._board.refused(interest for interest, _ in batch)
            self._state.warn(Reason.TOO_MANY_REGISTRATIONS, f"{len(rows)} more rows")
            return
        registered = {oid for oid, table in answer.tables.items() if table.registers}
        self._registered.update(name for name, _ in rows if name[0] in registered)
        self._board.registered(batch, await self._calls.boundary())

    async def unregister(self) -> None:
        """Delete the registrations of rows that nobody has waited for in a while."""
        names = [interest.name for interest in self._board.take_idle()]
        if names:
            await self._calls.unregister(names)
            self._registered.difference_update(names)

    # -- what may have gone wrong meanwhile

    async def heartbeat(self) -> None:
        """Is it still the same session, on a primary, and was nothing missed?

        Raises:
            CannotListenError: It is not, or its registrations are gone.
        """
        self.wants_heartbeat = False
        answer = await self._calls.heartbeat(self._board.tables())
        if answer.in_recovery:
            raise CannotListenError(Reason.IN_RECOVERY, "the server has become a standby")
        if answer.backend_pid != self._backend_pid:
            why = "the connection has moved to another server process, which does not listen"
            raise CannotListenError(Reason.NOT_DELIVERED, why)
        if not answer.listens:
            why = (
                "notifications go to another channel than this session's: it was listening in vain"
            )
            raise CannotListenError(Reason.CONNECTION_LOST, why)
        expected = (len(self._registered), checksum(self._registered))
        if (answer.registered, answer.checksum) != expected:
            why = f"{answer.registered} of {len(self._registered)} registrations are left"
            raise CannotListenError(Reason.CONNECTION_LOST, f"{why}: somebody has deleted some")
        await self._look_at(answer.tables)
        if self._unsent is not None and answer.unsent != self._unsent:
            missed = answer.unsent - self._unsent
            self._state.note(f"{missed} notifications were not sent: all waits are proven anew")
            self._board.distrust(await self._calls.boundary())
        self._unsent = answer.unsent
        self._board.want_refused()

    async def _look_at(self, tables: dict[int, TableState]) -> None:
        """Take in what the database says of the tables."""
        obstacles = {o: Reason(t.obstacle) for o, t in tables.items() if t.obstacle is not None}
        for oid, reason in self._board.trouble(obstacles).items():
            self._state.warn(reason, f"table {await self._calls.table_name(oid)}")
        changed = [
            oid
            for oid, table in tables.items()
            if oid in self._versions and self._versions[oid] != table.version
        ]
        self._versions = {oid: table.version for oid, table in tables.items()}
        if changed:
            self._board.redefined(changed, await self._calls.boundary())

    async def look_for_writers(self) -> None:
        """Arm despite an old transaction elsewhere: only writers of the table matter."""
        tables, boundary = self._board.arming()
        if tables:
            proven = await self._calls.tables_without_writers(tables, boundary)
            self._board.clear(proven, boundary)

    async def end(self) -> None:
        """Delete what is registered."""
        await self._calls.close_listener()


def _check_schema(schema: tuple[int, int] | None, database: str) -> None:
    if schema is None:
        why = f"database {database!r} has no schema rowbell, so no table has triggers"
        raise CannotListenError(Reason.NOT_INSTALLED, why)
    version, compatible_with = schema
    if version < SCHEMA_VERSION:
        why = f"the schema rowbell has version {version}, this library wants {SCHEMA_VERSION}"
        raise CannotListenError(Reason.SCHEMA_OUTDATED, why)
    if compatible_with > SCHEMA_VERSION:
        why = f"the schema rowbell has version {version}, for libraries that know {compatible_with}"
        raise CannotListenError(Reason.SCHEMA_NEWER, why)
