"""Following one row: each state that differs from the last one, until something ends it."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import URL, delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import Follow, InvalidColumnError, NotFoundError, Reason, RowWatcher, WatcherStateError
from support.models import Order
from support.observed import execute, statements
from support.waits import QUICK

MODES = pytest.mark.parametrize("mode", ["listen", "poll"])
ROW = update(Order).where(Order.id == 1)


def watching(engine: AsyncEngine, mode: str = "listen") -> RowWatcher:
    return RowWatcher(engine, mode=mode, recheck=None, timing=QUICK)


async def _is_over(watcher: RowWatcher) -> None:
    """Wait until what the follow waits for has been read."""
    await watcher.reached(lambda _: all(watch.is_over for watch in watcher._board.watches))


async def _cancelled(watcher: RowWatcher, follow: Follow[Any]) -> None:
    """An iteration that has begun to wait, and is cancelled."""
    waiting = asyncio.create_task(anext(follow))
    await watcher.reached(lambda _: not all(watch.is_over for watch in watcher._board.watches))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@MODES
async def test_each_new_state_is_yielded_and_the_first_is_the_row_as_it_is(
    orders: AsyncEngine, mode: str
) -> None:
    async with watching(orders, mode) as watcher:
        follow = watcher.follow(Order, 1, interval=0.05)
        for n in range(5):
            assert (await anext(follow)).n == n
            await execute(orders, ROW.values(n=Order.n + 1))
        assert follow.ended is None


@MODES
async def test_the_first_state_differs_from_since(orders: AsyncEngine, mode: str) -> None:
    async with watching(orders, mode) as watcher:
        follow = watcher.follow(Order, 1, since={"n": 0}, interval=0.05)
        first = asyncio.create_task(anext(follow))
        await watcher.reached(lambda now: now.rereads + now.queries > 0)
        await execute(orders, ROW.values(n=1))
        assert (await first).n == 1


@pytest.mark.parametrize("until", [Order.n == 2, lambda order: order.n == 2])
async def test_the_state_for_which_until_holds_is_the_last(orders: AsyncEngine, until: Any) -> None:
    seen: list[int] = []
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, until=until)
        async for order in follow:
            seen.append(order.n)
            await execute(orders, ROW.values(n=Order.n + 1))
        assert (seen, follow.ended) == ([0, 1, 2], "until")
        with pytest.raises(StopAsyncIteration):
            await anext(follow)
        again = watcher.follow(Order, 1, until=Order.n == 3, since={"n": 3})
        assert [order.n async for order in again] == []
        assert again.ended == "until"


async def test_a_state_for_which_until_held_is_delivered_though_the_row_has_moved_on(
    orders: AsyncEngine,
) -> None:
    """Also if the iteration that waited for it was cancelled."""
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, until=Order.n == 1)
        assert (await anext(follow)).n == 0
        await _cancelled(watcher, follow)
        await execute(orders, ROW.values(n=1))
        await _is_over(watcher)
        await execute(orders, ROW.values(n=2))
        assert (await anext(follow)).n == 1
        assert follow.ended == "until"


async def test_after_a_cancelled_iteration_the_next_one_has_the_latest_state(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1)
        assert (await anext(follow)).n == 0
        for n in (1, 2, 3):
            await _cancelled(watcher, follow)
            await execute(orders, ROW.values(n=10 * n))
            await _is_over(watcher)
            await execute(orders, ROW.values(n=n))
            assert (await anext(follow)).n == n


async def test_a_reappearance_is_a_state_also_after_a_cancelled_iteration(
    orders: AsyncEngine,
) -> None:
    async with watching(orders, "auto") as watcher:
        follow = watcher.follow(Order, 1, missing="wait", interval=0.02)
        assert (await anext(follow)).n == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(follow)
        await execute(orders, delete(Order).where(Order.id == 1))
        await watcher.reached(lambda now: now.reason is Reason.INSERTS_NOT_DECLARED)
        await execute(orders, insert(Order).values(id=1, n=0))
        await _is_over(watcher)
        assert (await anext(follow)).n == 0


async def test_one_registration_for_its_whole_life(orders: AsyncEngine, database: URL) -> None:
    """Also while the caller does something else with a state, for longer than a row lingers."""
    registered = text("SELECT count(*), min(ctid::text) FROM rowbell.registration")
    brief = replace(QUICK, linger=0.1)
    async with (
        RowWatcher(orders, mode="listen", recheck=None, timing=brief) as watcher,
        orders.connect() as observer,
    ):
        follow = watcher.follow(Order, 1)
        await anext(follow)
        waiting = asyncio.create_task(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        before = (await observer.execute(registered)).one()
        for n in (1, 2, 3):
            await execute(orders, ROW.values(n=n))
            assert (await waiting).n == n
            await asyncio.sleep(4 * brief.linger)
            await observer.rollback()
            assert (await observer.execute(registered)).one() == before
            waiting = asyncio.create_task(anext(follow))
            await watcher.reached(lambda now: now.armed == 1)
        waiting.cancel()


async def test_a_deleted_row_ends_it_and_one_that_never_was_is_an_error(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1)
        await anext(follow)
        await execute(orders, delete(Order).where(Order.id == 1))
        assert [order async for order in follow] == []
        assert follow.ended == "deleted"
        with pytest.raises(NotFoundError):
            await anext(watcher.follow(Order, 1))


async def test_closing_the_watcher_or_the_follow_ends_it(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow, other = watcher.follow(Order, 1), watcher.follow(Order, 1)
        for each in (follow, other):
            await anext(each)
        waits = [asyncio.create_task(_rest(each)) for each in (follow, other)]
        await watcher.reached(lambda now: now.armed == 2)
        await follow.aclose()
        assert await waits[0] == []
        assert watcher.statistics().armed == 1
    assert await waits[1] == []
    assert (follow.ended, other.ended) == ("closed", "closed")


async def _rest(follow: Any) -> list[Any]:
    return [order async for order in follow]


async def test_dropping_it_leaves_at_once_also_within_a_cycle(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow: Any = watcher.follow(Order, 1)
        await anext(follow)
        assert len(watcher._board.watches) == 1
        del follow
        await asyncio.sleep(0)
        assert len(watcher._board.watches) == 0
        follow = watcher.follow(Order, 1)
        follow.itself = follow
        await anext(follow)
        del follow
        gc.collect()
        await asyncio.sleep(0)
        assert len(watcher._board.watches) == 0


async def test_two_tasks_cannot_iterate_at_once(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1)
        await anext(follow)
        waiting = asyncio.create_task(anext(follow))
        await asyncio.sleep(0)
        with pytest.raises(WatcherStateError, match="another task"):
            await anext(follow)
        waiting.cancel()


async def test_arguments_are_checked_at_the_call(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow: Any = watcher.follow
        with pytest.raises(TypeError, match="a follow has no argument 'timeout'"):
            follow(Order, 1, timeout=3)
        with pytest.raises(InvalidColumnError):
            follow(Order, 1, columns=["missing"])
    with pytest.raises(WatcherStateError, match="closed"):
        follow(Order, 1)


async def test_a_thousand_followers_of_one_row_share_each_reading(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follows = [watcher.follow(Order, 1) for _ in range(1000)]
        await asyncio.gather(*map(anext, follows))
        waits = [asyncio.ensure_future(anext(each)) for each in follows]
        await watcher.reached(lambda now: now.armed == len(follows))
        with statements(orders) as sent:
            await execute(orders, ROW.values(n=1))
            states = await asyncio.gather(*waits)
        assert {state.n for state in states} == {1}
        assert len([one for one in sent if one.startswith("SELECT")]) <= 4
