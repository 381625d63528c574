"""Fixtures for the tests of the database objects."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@pytest.fixture
async def writer(orders: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with orders.connect() as connection:
        await connection.execute(text("SET track_functions = 'all'"))
        await connection.commit()
        yield connection
