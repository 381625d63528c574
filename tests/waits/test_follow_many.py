"""Following many rows: first each as it is, then whichever has changed."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import InvalidKeyError, RowWatcher, WatcherStateError
from support.models import Order
from support.observed import execute, statements
from support.waits import QUICK


def watching(engine: AsyncEngine) -> RowWatcher:
    return RowWatcher(engine, recheck=None, timing=QUICK)


async def _first(follow: Any, count: int) -> dict[Any, Any]:
    return dict([await anext(follow) for _ in range(count)])


async def test_first_each_row_then_whichever_has_changed(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, [1, 2, (3,), 999], interval=0.02)
        first = await _first(follow, 4)
        assert {key: row and row.n for key, row in first.items()} == {
            1: 0,
            2: 0,
            (3,): 0,
            999: None,
        }
        third = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 3)
        await execute(orders, update(Order).where(Order.id == 3).values(n=5))
        key, row = await third
        assert (key, row and row.n) == ((3,), 5)
        await execute(orders, insert(Order).values(id=999, n=1))
        key, row = await anext(follow)
        assert (key, row and row.n) == (999, 1)
        await execute(orders, delete(Order).where(Order.id == 2))
        assert await anext(follow) == (2, None)
        await follow.aclose()
        assert len(watcher._board.watches) == 0


async def test_keys_come_and_go_while_it_runs(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, [1])
        await anext(follow)
        waiting = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        follow.add(2)
        key, _ = await waiting
        assert key == 2
        waiting = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 2)
        follow.discard(1)
        await execute(orders, update(Order).where(Order.id.in_([1, 2])).values(n=1))
        assert (await waiting)[0] == 2


async def test_fifty_rows_are_one_select_and_nothing_is_lost_by_a_timeout(
    orders: AsyncEngine,
) -> None:
    await execute(orders, insert(Order).values([{"id": 1000 + i} for i in range(50)]))
    async with watching(orders) as watcher:
        with statements(orders) as sent:
            follow = watcher.follow_many(Order, range(1000, 1050))
            assert len(await _first(follow, 50)) == 50
        assert len([one for one in sent if one.startswith("SELECT wanted")]) <= 3
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(follow)
        await watcher.reached(lambda now: now.armed == 50)
        seen: set[int] = set()
        await execute(orders, update(Order).where(Order.id >= 1000).values(n=1))
        while len(seen) < 50:
            try:
                async with asyncio.timeout(0.001):
                    key, row = await anext(follow)
            except TimeoutError:
                continue
            assert row is not None
            assert row.n == 1
            seen.add(key)


async def test_dropping_it_leaves_at_once_and_closing_the_watcher_ends_it(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        follow: Any = watcher.follow_many(Order, [1, 2])
        await _first(follow, 2)
        follow.itself = follow
        del follow
        gc.collect()
        await asyncio.sleep(0)
        assert len(watcher._board.watches) == 0
        follow = watcher.follow_many(Order, [1])
        await anext(follow)
        rest = asyncio.ensure_future(_rest(follow))
        await watcher.reached(lambda now: now.armed == 1)
    assert await rest == []


async def test_a_row_for_which_until_holds_is_not_followed_any_more(orders: AsyncEngine) -> None:
    """So one follow waits for any, or for all, of several rows."""
    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, [1, 2], until=Order.n == 1)
        await _first(follow, 2)
        for key in (2, 1):
            await execute(orders, update(Order).where(Order.id == key).values(n=1))
            found, row = await anext(follow)
            assert (found, row and row.n) == (key, 1)
        assert await _rest(follow) == []
        assert follow.ended == "until"
        assert len(watcher._board.watches) == 0
        with pytest.raises(WatcherStateError, match="begin another"):
            follow.add(3)


async def test_arguments_are_checked_at_the_call(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow_many: Any = watcher.follow_many
        with pytest.raises(TypeError, match="a follow of many rows has no argument 'since'"):
            follow_many(Order, [1], since={"n": 0})
        with pytest.raises(InvalidKeyError):
            follow_many(Order, [1, "one"])


async def _rest(follow: Any) -> list[Any]:
    return [each async for each in follow]
