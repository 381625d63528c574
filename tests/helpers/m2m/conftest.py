"""Posts, people and groups with many-to-many relationships."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from support.posts import create_posts


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncEngine:
    await create_posts(engine)
    return engine


@pytest.fixture
async def session(tables: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(tables) as session:
        yield session
