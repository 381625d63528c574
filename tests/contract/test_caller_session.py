"""The caller's session: its instances, its pending changes, its connection."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, insert, inspect, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload, undefer

from rowbell import wait_for_row_change
from support.ground import ODD, Ground
from support.models import Item, Odd, Order


@pytest.mark.fault("B45")
async def test_the_callers_own_instance_is_refreshed(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Odd).values(id=ODD, amount=1, big="a"))
    odd = await session.get_one(Odd, ODD, options=[undefer(Odd.big)])
    async with ground.begun(wait_for_row_change, session, Odd, ODD) as wait:
        await ground.execute(update(Odd).values(amount=2, big="b"))
        assert await wait is odd
    assert (odd.amount, odd.big) == (2, "b")


@pytest.mark.fault("B45")
async def test_pending_changes_are_kept_and_not_flushed(
    ground: Ground, session: AsyncSession
) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1, name="old"))
    order = await session.get_one(Order, 1, options=[selectinload(Order.items)])
    order.note, order.items[0].name = "mine", "mine"
    added = Order(id=7)
    session.add(added)
    async with ground.begun(
        wait_for_row_change, session, Order, 1, options=[selectinload(Order.items)]
    ) as wait:
        await ground.execute("UPDATE orders SET status = 'paid'")
        await wait
    assert (order.status, order.note) == ("paid", "mine")
    assert order.items[0].name == "mine"
    assert added in session.new
    assert order in session.dirty
    await session.commit()
    assert await session.scalar(func.count(Order.id)) == 3


@pytest.mark.fault("B9", "B10")
async def test_no_connection_is_taken_that_the_caller_does_not_hold(
    ground: Ground, session: AsyncSession
) -> None:
    session.add(Order(id=7))
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.still_waiting(wait)
        async with ground.engine.connect() as connection:
            in_transaction = await connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND state LIKE 'idle in transaction%'"
                )
            )
    assert in_transaction == 0


async def test_the_session_is_usable_after_cancellation(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        wait.cancel()
        await asyncio.wait([wait])
    order.status = "paid"
    await session.commit()
    assert ground.watcher.statistics().armed + ground.watcher.statistics().polled == 0


async def test_a_predicate_sees_an_instance_of_no_session(
    ground: Ground, session: AsyncSession
) -> None:
    seen: list[Order] = []

    def until(order: Order) -> bool:
        seen.append(order)
        return True

    await wait_for_row_change(session, Order, 1, until=until)
    assert inspect(seen[0]).detached


async def test_ten_sessions_on_one_row_all_return(ground: Ground, engine: AsyncEngine) -> None:
    make = async_sessionmaker(engine)

    async def wait() -> str:
        async with make() as session:
            order = await wait_for_row_change(session, Order, 1, interval=ground.interval)
            return str(order.status)

    waits = [asyncio.create_task(wait()) for _ in range(10)]
    polling = ground.is_polled
    await ground.watcher.reached(
        lambda now: (now.polled == 10 and now.rereads >= 10) if polling else now.armed == 10
    )
    await ground.execute("UPDATE orders SET status = 'paid'")
    assert await asyncio.gather(*waits) == ["paid"] * 10
