"""All calls of the listener to the database: the functions of schema ``rowbell``, as methods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asyncpg import InsufficientPrivilegeError

from rowbell._watch.database.answers import Heartbeat, Registered, Server, TableState
from rowbell._watch.database.schema import sql
from rowbell._watch.database.tables import TableEntry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    import asyncpg

    from rowbell._watch.database.tables import Columns, WatchedTable

T = TypeVar("T")

IDENTIFY: Final = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), pg_catalog.current_database(),
       pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()),
       pg_catalog.to_regprocedure('rowbell.schema_version()') IS NOT NULL"""

# Settings of the role, the database or the engine may not suit a session that listens.
_PREPARE_SESSION: Final = """
SELECT pg_catalog.set_config('application_name', pg_catalog.left('rowbell ' || coalesce(
         nullif(pg_catalog.current_setting('application_name'), ''), 'listener'), 63), false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       pg_catalog.set_config('default_transaction_read_only', 'off', false),
       pg_catalog.set_config('idle_session_timeout', '0', false),
       pg_catalog.set_config('statement_timeout', '0', false),
       pg_catalog.set_config('lock_timeout', '0', false)"""

# The current oids of the names; NULL for a name in a schema that this role may not use.
_OIDS: Final = """ARRAY(SELECT CASE WHEN t.schema IS NULL OR (
                SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                FROM pg_catalog.pg_namespace AS n
                WHERE n.nspname = t.schema) THEN pg_catalog.to_regclass(t.name)::oid END
      FROM unnest(@schemas@, @names@) WITH ORDINALITY AS t(schema, name, place)
      ORDER BY t.place) AS oids"""


def callers_view(tables: str, schemas: str, names: str) -> str:
    """What only the role itself can query of tables: the oids of their names, and their owners.

    Args:
        tables: The oids, as SQL.
        schemas: The schemas, each with NULL for the ``search_path``, as SQL.
        names: The names, as SQL.
    """
    oids = _OIDS.replace("@schemas@", schemas).replace("@names@", names)
    untrusted = sql("untrusted_owners").replace("@tables@", tables)
    return f"{oids}, ARRAY(SELECT DISTINCT u.table_oid FROM ({untrusted}) AS u) AS untrusted"


_VIEW: Final = callers_view("$1::oid[]", "$4::text[]", "$5::text[]")
_REGISTER: Final = (
    f"SELECT answer.*, {_VIEW} FROM rowbell.register("
    "$1::oid[], $2::bytea[], $3::text[], $6::oid[], $7::bigint[], $8::text[]) AS answer"
)
_HEARTBEAT: Final = (
    f"SELECT answer.*, {_VIEW} FROM rowbell.heartbeat($1::oid[], $2::bytea[], $3::text[]) AS answer"
)


class Calls:
    """The calls on one connection. It is terminated if an answer takes too long.

    Args:
        connection: The LISTEN connection.
        answer: The longest time that an answer may take, in seconds.
    """

    def __init__(self, connection: asyncpg.Connection[Any], answer: float) -> None:
        self._connection = connection
        self._limit = answer

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._connection.is_closed()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Add a function that is called when the connection is closed."""
        self._connection.add_termination_listener(lambda _: callback())

    async def identify(self) -> Server:
        """The server that the connection has reached."""
        [(pid, recovering, database, started, installed)] = await self.fetch(IDENTIFY)
        schema = None
        if installed:
            [(version, compatible_with)] = await self.fetch(
                "SELECT * FROM rowbell.schema_version()"
            )
            schema = (version, compatible_with)
        return Server(pid, recovering, database, started, schema)

    async def prepare_session(self) -> None:
        """Set what a listener needs. ``application_name`` then shows that it is rowbell's session.

        Only after delivery is proven: behind a transaction pooler other sessions would get them.
        """
        await self.fetch(_PREPARE_SESSION)

    async def listen(self, channel: str, received: Callable[[str], None]) -> Any:
        """LISTEN; return the argument for ``unlisten``."""

        def callback(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            received(str(payload))

        await self._answer(self._connection.add_listener(channel, callback))
        return callback

    async def unlisten(self, channel: str, listening: Any) -> None:
        """UNLISTEN."""
        await self._answer(self._connection.remove_listener(channel, listening))

    async def open_listener(self) -> str:
        """Make this session a listener; return its channel."""
        [(_, channel)] = await self.fetch("SELECT * FROM rowbell.open_listener()")
        return str(channel)

    async def close_listener(self) -> None:
        """Delete the registrations of this session."""
        await self.fetch("SELECT rowbell.close_listener()")
        await self.fetch("SELECT rowbell.lower_flags()")

    async def register(
        self,
        tables: Mapping[int, tuple[WatchedTable, Columns]],
        rows: Sequence[tuple[tuple[int, int], Columns]],
    ) -> Registered:
        """Register rows, each with the columns that are watched in it."""
        try:
            [answer] = await self.fetch(
                _REGISTER,
                *_arrays(tables),
                [oid for (oid, _), _ in rows],
                [key for (_, key), _ in rows],
                [array(columns) for _, columns in rows],
            )
        except InsufficientPrivilegeError:
            refused = dict.fromkeys(
                tables, TableState("not_permitted", registers=False, version=None)
            )
            return Registered(refused, over_limit=False)
        return Registered(_states(tables, answer), over_limit=answer["over_limit"])

    async def unregister(self, rows: Sequence[tuple[int, int]]) -> None:
        """Delete registrations of this session."""
        await self.fetch(
            "SELECT rowbell.unregister($1::oid[], $2::bigint[])",
            [oid for oid, _ in rows],
            [key for _, key in rows],
        )

    async def boundary(self) -> int:
        """Assign a transaction ID. Transactions that have written before have lower ones."""
        [(boundary,)] = await self.fetch("SELECT pg_catalog.pg_current_xact_id()::text::bigint")
        return int(boundary)

    async def heartbeat(self, tables: Mapping[int, tuple[WatchedTable, Columns]]) -> Heartbeat:
        """The state of the session, its registrations and the tables."""
        [answer] = await self.fetch(_HEARTBEAT, *_arrays(tables))
        return Heartbeat(
            answer["backend_pid"],
            answer["in_recovery"],
            bool(answer["listens"]),
            answer["unsent"],
            answer["registered"],
            answer["checksum"],
            answer["queue_usage"],
            _states(tables, answer),
        )

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> list[int]:
        """The tables of these that no transaction below the boundary can still change."""
        query = "SELECT * FROM rowbell.tables_without_writers($1::oid[], $2::bigint)"
        return [row[0] for row in await self.fetch(query, tables, boundary)]

    async def table_name(self, oid: int) -> str:
        """A table's name, for the log."""
        [(name,)] = await self.fetch("SELECT $1::oid::regclass::text", oid)
        return str(name)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a query."""
        return await self._answer(self._connection.fetch(query, *arguments))

    async def _answer(self, query: Awaitable[T]) -> T:
        loop = asyncio.get_running_loop()
        # Not a query timeout: asyncpg would open another connection to cancel the query.
        limit = loop.call_later(self._limit, self._connection.terminate)
        try:
            return await query
        finally:
            limit.cancel()


def arrays(entries: Iterable[TableEntry]) -> tuple[list[Any], list[Any], list[Any]]:
    """Tables as the first three arguments of ``register()`` and ``heartbeat()``."""
    named = list(entries)
    return (
        [entry.oid for entry in named],
        [entry.options for entry in named],
        [array(entry.columns) for entry in named],
    )


def _arrays(tables: Mapping[int, tuple[WatchedTable, Columns]]) -> list[list[Any]]:
    """Tables as the arguments of both, and of the caller's view."""
    watched = [table for table, _ in tables.values()]
    entries = (TableEntry.of(oid, table, columns) for oid, (table, columns) in tables.items())
    return [
        *arrays(entries),
        [table.schema for table in watched],
        [table.qualified for table in watched],
    ]


def _states(
    tables: Mapping[int, tuple[WatchedTable, Columns]], answer: Any
) -> dict[int, TableState]:
    untrusted = set(answer["untrusted"])
    rows = zip(
        tables, answer["obstacles"] or (), answer["versions"] or (), answer["oids"], strict=True
    )
    return {
        oid: TableState(
            "untrusted" if oid in untrusted else obstacle,
            registers=obstacle is None,
            version=(version, now),
        )
        for oid, obstacle, version, now in rows
    }


def array(columns: Columns) -> str | None:
    """Columns as the text of a PostgreSQL array; ``None`` for any column."""
    if columns is None:
        return None
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in sorted(columns))
    return "{" + ",".join(f'"{name}"' for name in quoted) + "}"
