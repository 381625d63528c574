"""Roles of a test's own, connections as them, and what the server writes to a session's log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Self, TypeAlias
from uuid import uuid4

import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

from rowbell import install_triggers

Connection: TypeAlias = "asyncpg.Connection[Any]"
Isolation: TypeAlias = Literal["read_committed", "repeatable_read"]

REVOKED: Final = {
    "the schema": "REVOKE ALL ON SCHEMA rowbell FROM PUBLIC",
    "the tables": "REVOKE ALL ON ALL TABLES IN SCHEMA rowbell FROM PUBLIC",
    "the sequences": "REVOKE ALL ON ALL SEQUENCES IN SCHEMA rowbell FROM PUBLIC",
    "the functions": "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowbell FROM PUBLIC",
}
"""What may be revoked of the schema ``rowbell``."""


@asynccontextmanager
async def connected(url: URL) -> AsyncGenerator[Connection]:
    """An asyncpg connection to that database, as that role."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def role(database: URL, *grants: str, options: str = "LOGIN") -> AsyncGenerator[URL]:
    """The URL of the database as a new role.

    Args:
        database: The database, as a superuser.
        grants: Statements to execute, ``{role}`` standing for its name.
        options: What CREATE ROLE says of it.
    """
    name = f"role_{uuid4().hex[:12]}"
    async with connected(database) as owner:
        await owner.execute(f"CREATE ROLE {name} {options}")
        for grant in grants:
            await owner.execute(grant.format(role=name))
    try:
        yield database.set(username=name)
    finally:
        async with connected(database) as owner:
            await owner.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1",
                name,
            )
            await owner.execute(f"DROP OWNED BY {name} CASCADE")
            await owner.execute(f"DROP ROLE {name}")


class Warned:
    """The WARNINGs that a connection receives in a block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.messages: list[str] = []

    def _note(self, _: object, message: Any) -> None:
        if message.severity == "WARNING":
            self.messages.append(str(message))

    async def __aenter__(self) -> Self:
        self._connection.add_log_listener(self._note)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.fetch("SELECT 1")
        await asyncio.sleep(0)  # asyncpg calls log listeners with call_soon
        self._connection.remove_log_listener(self._note)


async def register(
    connection: Connection,
    table: str,
    key: int,
    *,
    columns: str | None = None,
    options: str = '{"version":1,"key":{"id":null},"columns":null}',
) -> str | None:
    """Register a row by hand, as any client may; returns what stood in the way."""
    obstacle: str | None = await connection.fetchval(
        "SELECT obstacles[1] FROM rowbell.register(ARRAY[$1::regclass::oid], ARRAY[$2::bytea],"
        " ARRAY[$4::text], ARRAY[$1::regclass::oid], ARRAY[hash_record_extended(ROW($3::int), 0)],"
        " ARRAY[$4::text])",
        table,
        options.encode(),
        key,
        columns,
    )
    return obstacle


@asynccontextmanager
async def managed(database: URL, *models: Any) -> AsyncGenerator[tuple[URL, str]]:
    """The database as a hosted service gives it to an application.

    Nobody involved is a superuser or may read the statistics of others. One role owns the tables
    and has installed the triggers; the application logs in as another and is a third by SET ROLE.
    What new functions would allow everybody by default was revoked.

    Yields:
        The URL to log in with, and the role to be set.
    """
    async with (
        role(database, options="NOLOGIN") as owner,
        role(database, options="NOLOGIN") as app,
        role(database, f"GRANT {app.username} TO {{role}}", options="LOGIN NOINHERIT") as login,
        connected(database) as superuser,
    ):
        schemas = [
            row[0]
            for row in await superuser.fetch(
                "SELECT DISTINCT quote_ident(schemaname) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'rowbell')"
            )
        ]
        tables = await superuser.fetch(
            "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname NOT IN"
            " ('pg_catalog', 'information_schema', 'rowbell')"
        )
        await superuser.execute(
            f'GRANT CREATE ON DATABASE "{database.database}" TO {owner.username};'
            " DROP SCHEMA rowbell CASCADE;"
            f" ALTER DEFAULT PRIVILEGES FOR ROLE {owner.username}"
            " REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"
        )
        for (table,) in tables:
            await superuser.execute(f"ALTER TABLE {table} OWNER TO {owner.username}")
        for schema in schemas:
            await superuser.execute(
                f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner.username};"
                f" GRANT USAGE ON SCHEMA {schema} TO {app.username};"
                f" GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {app.username};"
                f" GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {app.username}"
            )
        engine = create_async_engine(database)
        async with engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL ROLE {owner.username}"))
            await connection.run_sync(install_triggers, *models)
        await engine.dispose()
        yield login, str(app.username)
        await superuser.execute("DROP SCHEMA rowbell CASCADE")
        for (table,) in tables:
            await superuser.execute(f"ALTER TABLE {table} OWNER TO CURRENT_USER")
