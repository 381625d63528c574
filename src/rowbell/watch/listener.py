"""Hears: one task that owns the LISTEN connection. Nothing else talks on it.

The life of one connection::

    connect → LISTEN → prove that notifications arrive → sweep what the dead left
      → register what is wanted, heartbeat, register, … → lost, or stopped

A connection that is lost is thrown away, every watch is unarmed at once, and after a while it
all begins anew. That a server accepts LISTEN proves nothing: a transaction pooler does, and
nothing ever arrives. So hearing is proven by one notification sent from another connection.
Heartbeats are queries, never notifications, which would write WAL; they find a half-open
connection, a pooler that swapped the backend and a demoted primary, and calling
``pg_notification_queue_usage()`` lets a queue that was full recover.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from asyncpg import PostgresError
from sqlalchemy.exc import DBAPIError

from rowbell.watch.notification import BROADCAST, decode, own_channel
from rowbell.watch.state import Reason, StateLog, WatcherState
from rowbell.watch.timing import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import asyncpg

    from rowbell.watch.board import Board
    from rowbell.watch.connection import Connections
    from rowbell.watch.interest import Columns
    from rowbell.watch.timing import Timing

T = TypeVar("T")

_READ_ONLY = "25006"  # what a standby answers to LISTEN and NOTIFY
_NO_LISTEN = ("0A000", "42601")  # not supported, syntax error


class DeafError(Exception):
    """This connection cannot hear."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class Listener:
    """The task that hears for a board.

    Args:
        board: What it hears for.
        connections: Where it gets its connection.
        state: Where it says how it is.
        timing: The watcher's times.
    """

    def __init__(
        self, board: Board, connections: Connections, state: StateLog, timing: Timing
    ) -> None:
        self._board = board
        self._connections = connections
        self._state = state
        self._timing = timing
        self._stop = asyncio.Event()
        self._muted: int | None = None
        self.notifications = 0
        self.ignored = 0

    def stop(self) -> None:
        """End ``run`` when what is under way has ended."""
        self._stop.set()
        self._board.to_register.set()

    async def run(self) -> None:
        """Hear, until stopped; after each loss again, unless the server never could."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._timing)
        if self._connections.listen_dialect.driver != "asyncpg":
            driver = self._connections.listen_dialect
            detail = f"{driver.name}+{driver.driver} cannot LISTEN, only asyncpg can"
            self._state.enter(WatcherState.POLLING, Reason.UNSUPPORTED, detail)
            return
        self._state.enter(WatcherState.CONNECTING)
        while not self._stop.is_set():
            begun = loop.time()
            reason, detail = await self._live()
            self._board.unarm()
            if self._stop.is_set():
                return
            self._state.enter(WatcherState.POLLING, reason, detail)
            if reason is Reason.UNSUPPORTED:
                return
            with anyio.move_on_after(backoff.delay(healthy_for=loop.time() - begun)):
                await self._stop.wait()

    async def _live(self) -> tuple[Reason, str]:
        """Live through one connection; says how it ended."""
        try:
            async with self._connections.dedicated() as connection:
                pid = await self._begin(connection)
                await self._serve(connection, pid)
        except DeafError as error:
            return error.reason, error.detail
        except Exception as error:  # noqa: BLE001  # no list of errors would be complete
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            standby = getattr(cause, "sqlstate", None) == _READ_ONLY
            reason = Reason.IN_RECOVERY if standby else Reason.CONNECTION_LOST
            return reason, f"{type(cause).__name__}: {cause}".rstrip(": ")
        return Reason.CONNECTION_LOST, "closed"

    async def _begin(self, connection: asyncpg.Connection[Any]) -> int:
        """LISTEN, and prove that it works; returns the backend's pid."""
        connection.add_termination_listener(lambda _: self._board.to_register.set())
        [(pid, recovering, installed, database)] = await self._answer(
            connection,
            connection.fetch(
                "SELECT pg_backend_pid(), pg_is_in_recovery(),"
                " to_regprocedure('rowbell.pulse(oid[], bytea[])') IS NOT NULL, current_database()"
            ),
        )
        if recovering:
            raise DeafError(Reason.IN_RECOVERY, "the server is a standby")
        if not installed:
            why = f"database {database!r} has no schema rowbell, so no table has triggers"
            raise DeafError(Reason.NOT_INSTALLED, why)
        name = "SELECT set_config('application_name', left('rowbell '"
        name += (
            " || coalesce(nullif(current_setting('application_name'), ''), 'listener'), 63), false)"
        )
        await self._answer(connection, connection.execute(name))
        await self._prove(connection, pid)
        await self._answer(connection, connection.execute("SELECT rowbell.sweep(true)"))
        self._muted = None
        await self._pulse(connection, pid)
        self._board.heard()
        self._state.enter(WatcherState.LISTENING)
        return int(pid)

    async def _prove(self, connection: asyncpg.Connection[Any], pid: int) -> None:
        """LISTEN, and hear one notification that another connection sent."""
        proof, heard = f"proof:{secrets.token_hex(8)}", asyncio.Event()

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == proof:
                heard.set()
            else:
                self._hear(str(payload))

        try:
            for channel in (own_channel(pid), BROADCAST):
                await self._answer(connection, connection.add_listener(channel, hear))
        except PostgresError as error:
            if error.sqlstate in _NO_LISTEN:
                raise DeafError(Reason.UNSUPPORTED, f"LISTEN: {error}") from error
            raise
        with anyio.move_on_after(self._timing.proof):
            await self._connections.tell(own_channel(pid), proof)
            await heard.wait()
        if not heard.is_set():
            why = f"LISTEN was accepted, but nothing arrived within {self._timing.proof:g}s"
            raise DeafError(Reason.NOT_DELIVERED, why)

    async def _serve(self, connection: asyncpg.Connection[Any], pid: int) -> None:
        """Register what is wanted and look after the connection, until stopped."""
        loop, to_register = asyncio.get_running_loop(), self._board.to_register
        next_pulse = loop.time() + self._timing.heartbeat
        next_look = loop.time() + self._timing.narrow
        while not self._stop.is_set():
            to_register.clear()
            if connection.is_closed():
                raise DeafError(Reason.CONNECTION_LOST, "the server closed the connection")
            await self._register(connection)
            if loop.time() >= next_pulse:
                await self._pulse(connection, pid)
                await self._unregister(connection)
                next_pulse = loop.time() + self._timing.heartbeat
            if loop.time() >= next_look:
                await self._look_for_writers(connection)
                next_look = loop.time() + self._timing.narrow
            waiting, _ = self._board.arming()
            until = min(next_pulse, next_look) if waiting else next_pulse
            await self._pause(until - loop.time())
        for farewell in ("SELECT rowbell.sweep(true)", "SELECT rowbell.rest()"):
            await self._answer(connection, connection.execute(farewell))

    async def _register(self, connection: asyncpg.Connection[Any]) -> None:
        batch = self._board.take_unregistered()
        if not batch:
            return
        tables = self._board.tables()
        rows = await self._answer(
            connection,
            connection.fetch(
                "SELECT relation, trouble FROM rowbell.watch("
                "$1::oid[], $2::bytea[], $3::oid[], $4::bigint[], $5::text[])",
                list(tables),
                list(tables.values()),
                [interest.name[0] for interest, _ in batch],
                [interest.name[1] for interest, _ in batch],
                [_array(columns) for _, columns in batch],
            ),
        )
        troubles = {row["relation"]: Reason(row["trouble"]) for row in rows if row["trouble"]}
        await self._tell_troubles(connection, troubles)
        self._board.registered(batch, await self._boundary(connection))

    async def _boundary(self, connection: asyncpg.Connection[Any]) -> int:
        """A transaction id given out now: what began before has a lower one."""
        query = "SELECT pg_current_xact_id()::text::bigint"
        return int(await self._answer(connection, connection.fetchval(query)))

    async def _unregister(self, connection: asyncpg.Connection[Any]) -> None:
        names = [interest.name for interest in self._board.take_idle()]
        if names:
            release = connection.execute(
                "SELECT rowbell.unwatch($1::oid[], $2::bigint[])",
                [relation for relation, _ in names],
                [key for _, key in names],
            )
            await self._answer(connection, release)

    async def _pulse(self, connection: asyncpg.Connection[Any], pid: int) -> None:
        """The heartbeat: is this still the same session, on a primary, hearing everything?"""
        tables = self._board.tables()
        query = "SELECT * FROM rowbell.pulse($1::oid[], $2::bytea[])"
        [pulse] = await self._answer(
            connection, connection.fetch(query, list(tables), list(tables.values()))
        )
        if pulse["in_recovery"]:
            raise DeafError(Reason.IN_RECOVERY, "the server has become a standby")
        channels = set(pulse["channels"])
        if pulse["backend"] != pid or not {own_channel(pid), BROADCAST} <= channels:
            why = "the connection has moved to another server process, which does not listen"
            raise DeafError(Reason.NOT_DELIVERED, why)
        troubles = zip(pulse["troubled"] or (), pulse["troubles"] or (), strict=True)
        await self._tell_troubles(connection, {oid: Reason(trouble) for oid, trouble in troubles})
        if self._muted is not None and pulse["muted"] != self._muted:
            self._board.distrust(await self._boundary(connection))
        self._muted = pulse["muted"]

    async def _look_for_writers(self, connection: asyncpg.Connection[Any]) -> None:
        """Arm despite an old transaction elsewhere: only writers of the table matter."""
        relations, boundary = self._board.arming()
        if not relations:
            return
        query = "SELECT * FROM rowbell.clear($1::oid[], $2::bigint)"
        rows = await self._answer(connection, connection.fetch(query, relations, boundary))
        self._board.clear([row[0] for row in rows], boundary)

    async def _tell_troubles(
        self, connection: asyncpg.Connection[Any], troubles: dict[int, Reason]
    ) -> None:
        for relation, reason in self._board.trouble(troubles).items():
            query = connection.fetchval("SELECT $1::oid::regclass::text", relation)
            self._state.warn(reason, f"table {await self._answer(connection, query)}")

    def _hear(self, payload: str) -> None:
        """Asyncpg's callback: synchronous, in order, and never more than a look into a dict."""
        notification = decode(payload)
        if notification is None:
            self.ignored += 1
            return
        self.notifications += 1
        self._board.ring(notification.relation, notification.keys)

    async def _answer(self, connection: asyncpg.Connection[Any], query: Awaitable[T]) -> T:
        """Await a query; a connection that does not answer in time is terminated."""
        loop = asyncio.get_running_loop()
        # Not a timeout of the query: cancelling it would open another connection to do so.
        limit = loop.call_later(self._timing.answer, connection.terminate)
        try:
            return await query
        finally:
            limit.cancel()

    async def _pause(self, seconds: float) -> None:
        """Wait until there is something to do, or the time has passed."""
        with anyio.move_on_after(max(seconds, 0)):
            await self._board.to_register.wait()


def _array(columns: Columns) -> str | None:
    """Columns as the text of a PostgreSQL array; ``None`` for any column."""
    if columns is None:
        return None
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in sorted(columns))
    return "{" + ",".join(f'"{name}"' for name in quoted) + "}"
