"""Several sessions add, remove and set at the same time, or the connection is lost."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell import m2m_add, m2m_set
from support.observed import blocked, kill_connection_of
from support.posts import Post, Tag, get, stored


async def test_of_sets_at_the_same_time_one_whole_set_remains(tables: AsyncEngine) -> None:
    async def put(*keys: int) -> None:
        async with AsyncSession(tables) as session:
            post, tags = await get(session, *keys)
            await m2m_set(session, post, Post.tags, *tags)
            await session.commit()

    sets = [(1, 2, 3), (4, 5), (5, 1, 6), ()]
    for _ in range(15):
        await asyncio.gather(*(put(*keys) for keys in sets))
        async with AsyncSession(tables) as session:
            assert tuple(await stored(session)) in {tuple(sorted(keys)) for keys in sets}


async def test_adds_in_different_orders_do_not_deadlock(tables: AsyncEngine) -> None:
    async def add(*keys: int) -> None:
        async with AsyncSession(tables) as session:
            post, tags = await get(session, *keys)
            await m2m_add(session, post, Post.tags, *tags, ignore_conflicts=True)
            await session.commit()

    for _ in range(10):
        await asyncio.gather(*(add(*range(1, 11)), add(*range(10, 0, -1))) * 3)
        async with AsyncSession(tables) as session:
            assert await stored(session) == [*range(1, 11)]
            await m2m_set(session, await session.get_one(Post, 1), Post.tags)
            await session.commit()


async def test_a_set_after_a_concurrent_add_has_exactly_its_rows(tables: AsyncEngine) -> None:
    async with AsyncSession(tables) as adding, AsyncSession(tables) as setting:
        await m2m_add(adding, Post(id=1), Post.tags, Tag(id=1))
        task = asyncio.create_task(m2m_set(setting, Post(id=1), Post.tags, Tag(id=1), Tag(id=2)))
        await blocked(tables)
        await adding.commit()
        await task
        assert await stored(setting) == [1, 2]


async def test_a_failure_of_the_connection_is_the_drivers_own_error(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, (tag,) = await get(session, 1)
    await kill_connection_of(session, tables)
    with pytest.raises(DBAPIError):
        await m2m_set(session, post, Post.tags, tag)
    await session.rollback()
    await m2m_set(session, Post(id=1), Post.tags, Tag(id=1))
    assert await stored(session) == [1]
