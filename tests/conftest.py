from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from models import Base
from rowbell.pytest_plugin import Schema

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def rowbell_server_settings(rowbell_server_settings: Mapping[str, object]) -> Mapping[str, object]:
    return {**rowbell_server_settings, "max_prepared_transactions": 10}


@pytest.fixture(scope="session")
def rowbell_schema() -> Schema:
    return Base


@pytest.fixture(scope="session")
def server(rowbell_server_url: URL) -> URL:
    return rowbell_server_url


@pytest.fixture
def database(rowbell_database: URL) -> URL:
    """A database of the test's own, with all models and their triggers."""
    return rowbell_database


@pytest.fixture
def engine(rowbell_engine: AsyncEngine) -> AsyncEngine:
    return rowbell_engine


async def execute(url: URL, *statements: str) -> None:
    """Execute each statement in a transaction of its own."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()
