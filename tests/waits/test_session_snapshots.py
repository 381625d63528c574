"""What a session sees of other transactions' changes and of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from rowbell import RowWatcher, SessionStateError, WaitTimeoutError, wait_for_row_change
from rowbell._watch.lifetime import opened
from support.catalogue import due, seen
from support.models import Order
from support.observed import execute


async def test_two_waits_on_one_session_are_refused(orders: AsyncEngine) -> None:
    async with AsyncSession(orders) as session:
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1))
        await asyncio.sleep(0)  # the wait begins
        with pytest.raises(SessionStateError, match="is already waiting"):
            await wait_for_row_change(session, Order, 2)
        wait.cancel()
        await asyncio.wait([wait])
        with pytest.raises(WaitTimeoutError):
            await wait_for_row_change(session, Order, 2, timeout=0)


@pytest.mark.fault("B31")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_frozen_snapshot_is_refused_at_the_call(orders: AsyncEngine, level: str) -> None:
    engine = orders.execution_options(isolation_level=level)
    async with AsyncSession(engine) as session:
        await session.get(Order, 1)
        with pytest.raises(SessionStateError, match=level):
            await wait_for_row_change(session, Order, 1)
        await session.rollback()
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1, timeout=20))
        await _changed_once_waiting(orders)
        assert (await wait).n == 1


async def _changed_once_waiting(engine: AsyncEngine) -> None:
    await asyncio.sleep(0)  # the wait begins
    watcher = opened.get(engine)
    assert watcher is not None
    await watcher.reached(lambda now: now.armed == 1)
    await execute(engine, update(Order).where(Order.id == 1).values(n=Order.n + 1))


async def test_what_only_this_session_sees_is_not_found_with_a_hint(orders: AsyncEngine) -> None:
    async with AsyncSession(orders) as session:
        session.add(Order(id=5000))
        await session.flush()
        with pytest.raises(rowbell.NotFoundError, match="not found: this session sees it"):
            await wait_for_row_change(session, Order, 5000)


async def test_rollback_per_test_sees_what_the_test_writes(orders: AsyncEngine) -> None:
    """Sessions are bound to one connection. Its outer transaction is rolled back after the test."""
    async with orders.connect() as connection:
        transaction = await connection.begin()
        more: dict[str, Any] = {"bind": connection, "join_transaction_mode": "create_savepoint"}
        async with AsyncSession(**more) as waiter, AsyncSession(**more) as writer:
            wait = asyncio.create_task(
                wait_for_row_change(waiter, Order, 1, interval=0.01, timeout=20, since={"n": 0})
            )
            await writer.execute(update(Order).where(Order.id == 1).values(n=1))
            await writer.commit()
            assert (await wait).n == 1
            until = await wait_for_row_change(waiter, Order, 1, until=lambda order: order.n == 1)
            assert until in waiter
            with pytest.raises(WaitTimeoutError, match="own connection"):
                await wait_for_row_change(waiter, Order, 1, interval=0.01, timeout=0.05)
        await transaction.rollback()
    async with AsyncSession(orders) as session:
        assert (await session.get_one(Order, 1)).n == 0


async def test_a_session_bound_to_a_frozen_connection_is_refused(orders: AsyncEngine) -> None:
    engine = orders.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as connection, connection.begin(), AsyncSession(connection) as s:
        with pytest.raises(SessionStateError, match="REPEATABLE READ"):
            await wait_for_row_change(s, Order, 1)


@pytest.mark.fault("B33")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_what_the_caller_has_not_committed_is_no_change_for_it(
    orders: AsyncEngine, mode: str
) -> None:
    async with RowWatcher(orders, mode=mode), AsyncSession(orders) as session:
        await session.execute(update(Order).where(Order.id == 1).values(n=5))
        with pytest.raises(WaitTimeoutError):
            await wait_for_row_change(session, Order, 1, interval=0.02, timeout=0.2)
        await session.commit()
        due()
        order = await seen(wait_for_row_change(session, Order, 1, since={"n": 0}, timeout=20))
        assert order.n == 5
