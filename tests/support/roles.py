"""Roles for a test, connections as these roles, and the WARNINGs that a session receives."""

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
"""Statements that revoke rights on the schema ``rowbell``."""


@asynccontextmanager
async def connected(url: URL) -> AsyncGenerator[Connection]:
    """An asyncpg connection to that database as the URL's role."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def role(database: URL, *grants: str, options: str = "LOGIN") -> AsyncGenerator[URL]:
    """Create a role, and give the database's URL for it.

    Args:
        database: The URL of the database for a superuser.
        grants: Statements to execute. ``{role}`` is replaced by the role's name.
        options: The options of CREATE ROLE.
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
    """Collects the WARNINGs that a connection receives in a block."""

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
    """Register a row with SQL, which any client may do. Return the obstacle, if any."""
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
    """A database with the roles of a hosted service.

    No role is a superuser or may read the statistics of other roles. One role owns the tables and
    has installed the triggers. The application logs in as a second role, and uses SET ROLE to
    become a third. Default privileges do not grant EXECUTE on new functions to PUBLIC.

    Yields:
        The URL for the login, and the role for SET ROLE.
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
