"""Fixtures for the tests of the database objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from support.lists import created, listed


@pytest.fixture
async def writer(orders: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with orders.connect() as connection:
        await connection.execute(text("SET track_functions = 'all'"))
        await connection.commit()
        yield connection


@pytest.fixture
async def entries(engine: AsyncEngine) -> type[Any]:
    return await created(engine, listed())
