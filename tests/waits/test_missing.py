"""A row that is not there yet: its appearance is the change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from rowbell import InvalidArgumentError, Reason, RowWatcher, WaitTimeoutError, wait_for_row_change
from rowbell._watch.caller.refresh import refresh
from support.models import Order
from support.observed import execute
from support.waits import QUICK

WAIT: Any = {"missing": "wait", "interval": 0.02}


def watching(engine: AsyncEngine, mode: str = "auto") -> RowWatcher:
    return RowWatcher(engine, mode=mode, recheck=None, timing=QUICK)


async def test_a_row_that_appears_ends_the_wait(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 999, **WAIT))
        await watcher.reached(
            lambda now: now.reason is Reason.INSERTS_NOT_DECLARED and now.polled == 1
        )
        await execute(orders, insert(Order).values(id=999, n=7))
        assert (await wait).n == 7


async def test_in_a_session(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher, AsyncSession(orders) as session:
        wait = asyncio.create_task(wait_for_row_change(session, Order, 999, **WAIT))
        await watcher.reached(lambda now: now.polled == 1)
        await execute(orders, insert(Order).values(id=999, n=7))
        order = await wait
        assert order.n == 7
        assert order in session


async def test_a_row_that_is_deleted_before_the_session_selects_it_is_waited_for_again(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = False

    async def delete_first(*arguments: Any) -> Any:
        nonlocal deleted
        if not deleted:
            deleted = True
            await execute(orders, delete(Order).where(Order.id == 1))
        return await refresh(*arguments)

    monkeypatch.setattr("rowbell._watch.wait.adopt", lambda *_: None)
    monkeypatch.setattr("rowbell._watch.wait.refresh", delete_first)
    async with watching(orders) as watcher, AsyncSession(orders) as session:
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1, timeout=60, **WAIT))
        await watcher.reached(lambda now: now.reason is Reason.INSERTS_NOT_DECLARED)
        await execute(orders, insert(Order).values(id=1, n=7))
        assert (await wait).n == 7


@pytest.mark.parametrize("since", [None, rowbell.ABSENT])
async def test_a_row_that_exists_ends_the_wait_at_once(orders: AsyncEngine, since: Any) -> None:
    async with watching(orders) as watcher:
        assert (await watcher.wait_for_change(Order, 1, since=since, **WAIT)).id == 1
    async with watching(orders) as watcher:
        found = await watcher.wait_for_change(Order, 1, since=rowbell.ABSENT, timeout=5)
        assert found.id == 1


async def test_a_row_that_was_seen_is_waited_for_through_its_deletion(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, since={"n": 0}, **WAIT))
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, delete(Order).where(Order.id == 1))
        await watcher.reached(lambda now: now.reason is Reason.INSERTS_NOT_DECLARED)
        await execute(orders, insert(Order).values(id=1, n=0))
        assert (await wait).n == 0


async def test_until_decides_when_the_row_appears(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 999, until=Order.n == 2, **WAIT))
        await watcher.reached(lambda now: now.polled == 1)
        await execute(orders, insert(Order).values(id=999, n=1))
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, update(Order).where(Order.id == 999).values(n=2))
        assert (await wait).n == 2


async def test_a_row_that_never_appears_times_out(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        with pytest.raises(WaitTimeoutError):
            await watcher.wait_for_change(Order, 999, timeout=0.1, **WAIT)
        with pytest.raises(InvalidArgumentError, match="missing must be 'raise' or 'wait'"):
            await watcher.wait_for_change(Order, 999, missing="ignore")


async def test_a_follow_goes_on_through_deletion_and_reappearance(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 999, **WAIT)
        first = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.polled == 1)
        await execute(orders, insert(Order).values(id=999, n=1))
        assert (await first).n == 1
        second = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, delete(Order).where(Order.id == 999))
        await watcher.reached(lambda now: now.reason is Reason.INSERTS_NOT_DECLARED)
        await execute(orders, insert(Order).values(id=999, n=1))
        assert (await second).n == 1
        assert follow.ended is None
