"""What a wait returns: ``until``, ``since`` and ``options``."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.exc import DetachedInstanceError

from rowbell import InvalidColumnError, WaitTimeoutError, wait_for_row_change
from support.ground import Ground
from support.models import Item, Order


@pytest.mark.parametrize("until", [Order.status == "paid", lambda order: order.status == "paid"])
async def test_until_waits_through_other_changes(
    ground: Ground, session: AsyncSession, until: Any
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1, until=until) as wait:
        await ground.execute("UPDATE orders SET status = 'packed'")
        await ground.still_waiting(wait)
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await wait).status == "paid"


@pytest.mark.parametrize("until", [Order.n >= 0, lambda order: order.n >= 0])
async def test_until_that_holds_already_returns_at_once(
    ground: Ground, session: AsyncSession, until: Any
) -> None:
    order = await wait_for_row_change(session, Order, 1, until=until, timeout=0)
    assert order.n == 0


async def test_until_refuses_columns_of_other_models(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(InvalidColumnError, match=r"items\.name"):
        await wait_for_row_change(session, Order, 1, until=Item.name == "x")


async def test_an_error_in_until_is_the_callers(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(ZeroDivisionError):
        await wait_for_row_change(session, Order, 1, until=lambda order: 1 / order.n)


@pytest.mark.fault("B31")
async def test_since_an_instance_the_change_before_the_call_is_seen(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    await ground.execute("UPDATE orders SET status = 'paid'")
    again = await wait_for_row_change(session, Order, 1, since=order)
    assert again is order
    assert order.status == "paid"


@pytest.mark.fault("B33")
async def test_since_ignores_what_the_caller_changed_itself(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    order.status = "mine"
    with pytest.raises(WaitTimeoutError):
        await wait_for_row_change(session, Order, 1, since=order, timeout=0)


@pytest.mark.fault("B45")
async def test_options_load_relationships(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1))
    options = [selectinload(Order.items)]
    async with (
        ground.begun(wait_for_row_change, session, Order, 1, options=options) as one,
        ground.begun(ground.watcher.wait_for_change, Order, 1, options=options) as two,
        ground.begun(ground.watcher.wait_for_change, Order, 1) as three,
    ):
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert [item.id for item in (await one).items] == [1]
        assert [item.id for item in (await two).items] == [1]
        with pytest.raises(DetachedInstanceError):
            len((await three).items)
