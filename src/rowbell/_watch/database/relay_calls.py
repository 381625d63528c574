"""The calls of a relay to the database, beside those of every listener (``calls``).

A relay has one listener for each role of its processes, all in the session of one connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from rowbell._watch.database.answers import Heartbeat
from rowbell._watch.database.calls import array, arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowbell._watch.database.calls import Calls
    from rowbell._watch.database.tables import Columns, TableEntry
    from rowbell._watch.values.key_hash import RowId

_PREPARE: Final = (
    "SELECT pg_catalog.set_config('application_name', 'rowbell relay', false),"
    " pg_catalog.set_config('idle_session_timeout', $1, false)"
)

_REGISTER: Final = (
    "SELECT * FROM rowbell.register("
    "$1::oid[], $2::bytea[], $3::text[], $4::oid[], $5::bigint[], $6::text[], $7::bigint)"
)
_HEARTBEAT: Final = (
    "SELECT * FROM rowbell.heartbeat($1::oid[], $2::bytea[], $3::text[], $4::bigint)"
)
_END_STUCK: Final = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid = $1 AND a.usename = session_user AND a.wait_event = 'ClientWrite'
  AND a.state_change < pg_catalog.clock_timestamp() - interval '3 seconds'"""
_BOUNDARY: Final = """
SELECT pg_catalog.pg_current_xact_id()::text::bigint, ARRAY(
  SELECT w.place
  FROM unnest($1::oid[], $2::bigint[]) WITH ORDINALITY AS w(table_oid, key_hash, place)
  LEFT JOIN rowbell.registration AS r
    ON r.table_oid = w.table_oid AND r.key_hash = w.key_hash AND r.listener = $3::bigint
  WHERE r.listener IS NULL)"""
_BEAT: Final = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),
       CASE WHEN s.is_called THEN s.last_value ELSE 0 END
FROM rowbell.unsent_notifications AS s"""


class Leader(NamedTuple):
    """The answer to ``lead()``.

    Attributes:
        term: The number of the term that has begun; ``None`` if another session leads.
        pid: The server process of the session that leads.
        role: Its role.
    """

    term: int | None
    pid: int | None
    role: str | None


class Admitted(NamedTuple):
    """A listener of the relay, for one role: its number, and its channel."""

    number: int
    channel: str


class TableAnswer(NamedTuple):
    """What the database says of one table: why it cannot notify, and its version."""

    obstacle: str | None
    version: int | None


class Beat(NamedTuple):
    """The answer to ``beat``.

    Attributes:
        backend_pid: The server process.
        in_recovery: Whether it is a standby now.
        unsent: How many notifications could not be sent, in total.
    """

    backend_pid: int
    in_recovery: bool
    unsent: int


class RelayCalls:
    """The calls of a relay.

    Args:
        calls: The calls on its connection.

    Attributes:
        answered: Called when the server has answered, with the time at which it was asked.
    """

    def __init__(self, calls: Calls) -> None:
        self.answered: Callable[[float], None] = _ignore
        self._calls = calls

    async def _fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        asked = asyncio.get_running_loop().time()
        try:
            rows = await self._calls.fetch(query, *arguments)
        except asyncpg.PostgresError:  # an answer, too
            if not self._calls.closed:
                self.answered(asked)
            raise
        self.answered(asked)
        return rows

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._calls.closed

    def on_close(self, callback: Callable[[], None]) -> None:
        """Add a function that is called when the connection is closed."""
        self._calls.on_close(callback)

    async def listen(self, channel: str, received: Callable[[str], None]) -> None:
        """LISTEN."""
        await self._calls.listen(channel, received)

    async def table_name(self, oid: int) -> str:
        """A table's name, for a message."""
        return await self._calls.table_name(oid)

    async def lead(self, name: str) -> Leader:
        """Become the leader of the relays with this name, if there is none. It does not wait."""
        [answer] = await self._fetch("SELECT * FROM rowbell.lead($1)", name)
        return Leader(answer["term"], answer["leader_pid"], answer["leader_role"])

    async def role(self) -> str:
        """The role that has logged in, as the list of sessions shows it."""
        [(role,)] = await self._fetch("SELECT session_user")
        return str(role)

    async def prepare_session(self, idle: float) -> None:
        """Set what a leader needs: after ``idle`` silent seconds the server ends its session."""
        await self._calls.close_listener()
        await self._calls.prepare_session()
        await self._fetch(_PREPARE, f"{max(round(idle * 1000), 1)}ms")

    async def end_stuck(self, pid: int) -> None:
        """End the session of a leader that does not take what the server sends.

        Its program is stopped. While the server waits for it, it does not end the session itself.
        """
        await self._fetch(_END_STUCK, pid)

    async def close(self) -> None:
        """Delete the registrations of this session."""
        await self._calls.close_listener()

    async def admit(self, tickets: Sequence[str]) -> list[Admitted | None]:
        """The listener for each ticket's role; ``None`` if the ticket is not valid."""
        [answer] = await self._fetch("SELECT * FROM rowbell.admit($1::text[])", tickets)
        return [
            None if number is None else Admitted(number, channel)
            for number, channel in zip(answer["numbers"], answer["channels"], strict=True)
        ]

    async def register(
        self,
        listener: int,
        entries: Sequence[TableEntry],
        rows: Sequence[tuple[RowId, Columns]],
    ) -> tuple[list[TableAnswer], bool]:
        """Register rows for a listener.

        Returns:
            The answer for each entry, and whether there would be too many rows: then none is
            registered.
        """
        [answer] = await self._fetch(
            _REGISTER,
            *arrays(entries),
            [row_id.table_oid for row_id, _ in rows],
            [row_id.key_hash for row_id, _ in rows],
            [array(columns) for _, columns in rows],
            listener,
        )
        return _of(answer["obstacles"], answer["versions"]), bool(answer["over_limit"])

    async def unregister(self, listener: int, rows: Sequence[RowId]) -> None:
        """Delete registrations of a listener."""
        await self._fetch(
            "SELECT rowbell.unregister($1::oid[], $2::bigint[], $3::bigint)",
            [row_id.table_oid for row_id in rows],
            [row_id.key_hash for row_id in rows],
            listener,
        )

    async def boundary(self) -> int:
        """Assign a transaction ID. Transactions that have written before have lower ones."""
        return (await self.registered(0, []))[0]

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> set[int]:
        """The tables of these that no transaction below the boundary can still change."""
        query = "SELECT * FROM rowbell.tables_without_writers($1::oid[], $2::bigint)"
        return {row[0] for row in await self._fetch(query, tables, boundary)}

    async def registered(self, listener: int, rows: Sequence[RowId]) -> tuple[int, list[RowId]]:
        """Assign a transaction ID; which of these rows are not registered for the listener?"""
        [(boundary, places)] = await self._fetch(
            _BOUNDARY,
            [row_id.table_oid for row_id in rows],
            [row_id.key_hash for row_id in rows],
            listener,
        )
        return int(boundary), [rows[place - 1] for place in places]

    async def beat(self) -> Beat:
        """A short query, which shows that this session still leads."""
        [answer] = await self._fetch(_BEAT)
        return Beat(*answer)

    async def heartbeat(
        self, listener: int, entries: Sequence[TableEntry]
    ) -> tuple[Heartbeat, list[TableAnswer]]:
        """The state of the session and of a listener, and the answer for each entry."""
        [answer] = await self._fetch(_HEARTBEAT, *arrays(entries), listener)
        heartbeat = Heartbeat(
            answer["backend_pid"],
            answer["in_recovery"],
            bool(answer["listens"]),
            answer["unsent"],
            answer["registered"],
            answer["checksum"],
            answer["queue_usage"],
            {},
        )
        return heartbeat, _of(answer["obstacles"], answer["versions"])


def _ignore(_: float) -> None:
    """Nobody wants to know."""


def _of(
    obstacles: Sequence[str | None] | None, versions: Sequence[int | None] | None
) -> list[TableAnswer]:
    rows = zip(obstacles or (), versions or (), strict=True)
    return [TableAnswer(obstacle, version) for obstacle, version in rows]
