"""A pool of two connections. After each test, none may be in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from support.observed import execute
from support.requests import OwnSession, in_use


@pytest.fixture
async def engine(database: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=0.2)
    await execute(
        engine,
        "CREATE TABLE checked (id int PRIMARY KEY, "
        "plain_id int REFERENCES plain DEFERRABLE INITIALLY DEFERRED)",
    )
    yield engine
    assert in_use(engine) == 0
    await engine.dispose()


@pytest.fixture
def maker(engine: AsyncEngine) -> async_sessionmaker[OwnSession]:
    return async_sessionmaker(engine, class_=OwnSession)
