"""The measured table. Each way to wait has its own copy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy import URL, Connection, DateTime, func, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Row(Base):
    """A typical row of an application: a key, and columns of several types."""

    __abstract__ = True
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0, server_default="0")
    status: Mapped[str] = mapped_column(server_default="new")
    note: Mapped[str | None] = mapped_column(server_default="something about it")
    heartbeat: Mapped[int] = mapped_column(server_default="0")
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


@cache
def model(table: str) -> type[Row]:
    """The mapped class for the table of that name."""
    made: Any = type(table.title(), (Row,), {"__tablename__": table, "__module__": __name__})
    return made  # type: ignore[no-any-return]


def create(connection: Connection, table: str, rows: int) -> None:
    """Create or replace the table, with that many rows. Half of each page is free for updates."""
    connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    model(table).metadata.tables[table].create(connection)
    connection.execute(text(f"ALTER TABLE {table} SET (fillfactor = 50)"))
    connection.execute(text(f"INSERT INTO {table} (id) SELECT generate_series(1, {rows})"))


async def connect(url: URL) -> asyncpg.Connection[Any]:
    """An asyncpg connection to a server on a unix socket."""
    return await asyncpg.connect(
        host=str(url.query["host"]), user=url.username, database=url.database
    )


@asynccontextmanager
async def connected(url: URL) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """An asyncpg connection that is closed at the end."""
    connection = await connect(url)
    yield connection
    await connection.close()


def libpq_url(url: URL) -> str:
    """The URL of a server on a unix socket, for libpq."""
    return f"postgresql://{url.username}@/{url.database}?host={url.query['host']}"


async def execute(url: URL, statements: Sequence[str]) -> None:
    """Execute each statement in its own transaction."""
    async with connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


@asynccontextmanager
async def prepared(url: URL, table: str, rows: int) -> AsyncGenerator[AsyncEngine]:
    """Create the table, and give the engine."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(create, table, rows)
    await execute(url, [f"VACUUM ANALYZE {table}"])
    yield engine
    await engine.dispose()
