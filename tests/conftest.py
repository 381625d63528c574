from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from models import Base
from rowbell.embedded import server_url

SETTINGS = {"fsync": "off", "max_connections": 200, "max_prepared_transactions": 10}


@pytest.fixture(scope="session")
def server() -> Iterator[URL]:
    with server_url(SETTINGS) as url:
        yield url


async def execute(url: URL, *statements: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


@pytest.fixture(scope="session")
def template(server: URL) -> Iterator[str]:
    """A database with all models and their triggers, to be cloned."""
    name = "rowbell_test_template"

    async def create() -> None:
        await execute(
            server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}"
        )
        engine = create_async_engine(server.set(database=name), poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(text('CREATE SCHEMA "Select"'))
            await connection.run_sync(Base.metadata.create_all)
        await engine.dispose()

    asyncio.run(create())
    yield name
    asyncio.run(execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


_numbers = count(1)


@pytest.fixture
async def database(server: URL, template: str) -> AsyncIterator[URL]:
    """A database of the test's own."""
    name = f"rowbell_test_{next(_numbers)}"
    await execute(
        server,
        f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
        f"CREATE DATABASE {name} TEMPLATE {template}",
    )
    yield server.set(database=name)
    await execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(database: URL) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database)
    yield engine
    await engine.dispose()
