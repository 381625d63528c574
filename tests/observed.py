"""What a test does to the server beside the code under test, and what it sees there."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool


async def execute(url: URL, *statements: str) -> None:
    """Execute each statement in a transaction of its own."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


@contextmanager
def statements(engine: AsyncEngine) -> Generator[list[str]]:
    """What the engine sends to the server meanwhile."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine.sync_engine, "before_cursor_execute", note)


async def blocked(engine: AsyncEngine, count: int = 1) -> list[str | None]:
    """The tables for whose locks that many sessions of this database wait, once they do.

    A wait for a row, or for a key, has no table.
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
        await asyncio.sleep(0.01)  # the server tells nobody that a session waits


@contextmanager
def everything_sent(engine: AsyncEngine) -> Generator[list[str]]:
    """What the engine and the listeners that are made like it send to the server meanwhile."""

    def connected(connection: Any, _record: object) -> None:
        # A listener talks through asyncpg itself, past the engine's events.
        connection.driver_connection.add_query_logger(lambda logged: sent.append(logged.query))

    event.listen(engine.sync_engine, "connect", connected)
    with statements(engine) as sent:
        yield sent
    event.remove(engine.sync_engine, "connect", connected)
