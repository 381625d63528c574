"""Statements that a test executes on the server, and what it observes there."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from sqlalchemy import URL, Executable, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from support.catalogue import due

KILL_ALL: Final = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND datname = current_database() AND application_name NOT LIKE 'rowbell%'"
)
"""Terminates all connections to the database except those that listen."""


async def execute(on: URL | AsyncEngine, *statements: str | Executable) -> None:
    """Execute each statement in its own transaction.

    Args:
        on: An engine, or the URL of a database; for a URL, a connection in AUTOCOMMIT is made.
        statements: The statements.
    """
    engine = on
    if isinstance(engine, URL):
        engine = create_async_engine(engine, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement) if isinstance(statement, str) else statement)
            await connection.commit()
    due()
    if engine is not on:
        await engine.dispose()


@contextmanager
def statements(engine: AsyncEngine) -> Generator[list[str]]:
    """The statements that the engine sends during the block."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine.sync_engine, "before_cursor_execute", note)


async def blocked(engine: AsyncEngine, count: int = 1) -> list[str | None]:
    """Wait until that many sessions of the database wait for a lock. Return the locked tables.

    A session that waits for a row or a key has ``None`` for its table.
    """
    waits = text(
        "SELECT l.relation::regclass::text FROM pg_locks AS l JOIN pg_stat_activity AS a "
        "USING (pid) WHERE NOT l.granted AND a.datname = current_database()"
    )
    while True:
        async with engine.connect() as connection:
            found = list(await connection.scalars(waits))
        if len(found) == count:
            return found
        await asyncio.sleep(0.01)  # the server does not announce that a session waits


@contextmanager
def everything_sent(engine: AsyncEngine) -> Generator[list[str]]:
    """The statements that the engine and its listeners send during the block."""
    if engine.dialect.driver != "asyncpg":
        pytest.skip("the engine does not create the connection that listens")

    def connected(connection: Any, _record: object) -> None:
        # A listener uses asyncpg directly, so the engine's events do not see its statements.
        connection.driver_connection.add_query_logger(lambda logged: sent.append(logged.query))

    event.listen(engine.sync_engine, "connect", connected)
    with statements(engine) as sent:
        yield sent
    event.remove(engine.sync_engine, "connect", connected)


async def backends(engine: AsyncEngine) -> list[Any]:
    """The other client connections of the database, without autovacuum workers."""
    query = (
        "SELECT pid, usename, application_name, state, query FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    async with engine.connect() as connection:
        return list(await connection.execute(text(query)))


async def none_left(engine: AsyncEngine) -> None:
    """Wait until the server has closed the sessions of disconnected clients."""
    left: list[Any] = []
    try:
        async with asyncio.timeout(20):
            while left := await backends(engine):
                await asyncio.sleep(0.01)  # the server does not announce that a session has gone
    except TimeoutError:
        pytest.fail(f"{left} is left")


async def listeners(engine: AsyncEngine) -> list[Any]:
    """The sessions of the database that listen for watchers."""
    return [b for b in await backends(engine) if b.application_name.startswith("rowbell")]


async def kill_listener(engine: AsyncEngine) -> None:
    """Terminate the only backend that listens."""
    [listener] = await listeners(engine)
    await kill(engine, listener.pid)


async def kill_connection_of(session: AsyncSession, engine: AsyncEngine) -> None:
    """Terminate the backend of the session's connection."""
    await kill(engine, await session.scalar(text("SELECT pg_backend_pid()")))


async def kill(engine: AsyncEngine, pid: int | None) -> None:
    """Terminate a backend, and wait until it has ended."""
    async with engine.connect() as connection:
        terminate = text("SELECT pg_terminate_backend(:pid, 5000)")
        await connection.execute(terminate, {"pid": pid})
