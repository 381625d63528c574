"""Servers that one test has to itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell.embedded import EmbeddedServer
from support.models import Base, Order


@pytest.fixture
def primary() -> Generator[EmbeddedServer]:
    with EmbeddedServer({"max_notify_queue_pages": 64, "hot_standby_feedback": "on"}) as server:
        yield server


@pytest.fixture
async def primary_orders(primary: EmbeddedServer) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(primary.url)
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Select"'))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Order).values(id=1))
    yield engine
    await engine.dispose()
