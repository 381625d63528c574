from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from models import Base
from rowbell.pytest_plugin import Schema

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def rowbell_server_settings(rowbell_server_settings: Mapping[str, object]) -> Mapping[str, object]:
    return {**rowbell_server_settings, "max_prepared_transactions": 10, "wal_level": "logical"}


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


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@pytest.fixture
async def other(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Somebody else's, on another connection."""
    async with AsyncSession(engine) as session:
        yield session
