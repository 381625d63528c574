"""What a type checker knows of waits, follows and their arguments. ``make types`` checks it."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import selectinload

import rowbell
from support.models import Order


async def a_wait_returns_the_class_that_it_was_given(
    session: AsyncSession, scoped: async_scoped_session[AsyncSession], watcher: rowbell.RowWatcher
) -> None:
    order = await rowbell.wait_for_row_change(session, Order, 7)
    assert_type(order, Order)
    assert_type(await rowbell.wait_for_row_change(scoped, Order, 7, timeout=30), Order)
    assert_type(await watcher.wait_for_change(Order, (7,), since=order), Order)


async def arguments_are_checked(session: AsyncSession) -> None:
    await rowbell.wait_for_row_change(
        session,
        Order,
        {"id": 7},
        columns=["status", Order.status],
        interval=timedelta(seconds=1),
        timeout=30,
        until=Order.status == "paid",
        since={"status": "new"},
        missing="wait",
        options=[selectinload("*")],
    )
    await rowbell.wait_for_row_change(
        session,
        Order,
        7,
        timeout="soon",  # type: ignore[arg-type]
    )
    await rowbell.wait_for_row_change(
        session,
        Order,
        7,
        untill=Order.status == "paid",  # type: ignore[call-arg]
    )
    await rowbell.wait_for_row_change(session, Order)  # type: ignore[call-arg]


async def follows_yield_what_they_follow(watcher: rowbell.RowWatcher) -> None:
    async with watcher.follow(Order, 7, until=lambda order: order.status == "paid") as states:
        assert_type(states, rowbell.Follow[Order])
        async for order in states:
            assert_type(order, Order)
    async with watcher.follow_many(Order, [7, 8]) as rows:
        async for _, row in rows:
            assert_type(row, Order | None)
    async for resync in watcher.changes(Order):
        assert_type(resync, rowbell.Resync)
        assert_type(resync.reason, rowbell.ResyncReason)


def a_watcher_tells(watcher: rowbell.RowWatcher) -> None:
    now = watcher.statistics()
    assert_type(now.state, rowbell.WatcherState)
    assert_type(now.reason, rowbell.Reason | None)
    assert_type(now.armed, int)


@rowbell.watched
class Plain(Order):
    """A decorator leaves the class as it is."""


@rowbell.watched(columns=["status"], inserts=True)
class Declared(Order):
    """Also with arguments."""


assert_type(Plain(), Plain)
assert_type(Declared(), Declared)
