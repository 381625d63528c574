"""The cost of waits, counted: statements, connections, memory, turns of the event loop."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from support.models import Order
from support.observed import backends, execute, statements
from support.waits import QUICK, armed, armed_wait, armed_waits

ROWS = 1_000


@pytest.fixture
def counted(orders: AsyncEngine) -> Iterator[list[str]]:
    """The statements that the engine executes."""
    with statements(orders) as sent:
        yield sent


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, ROWS + 1)]


@pytest.mark.fault("B34")
async def test_a_thousand_armed_waits_hold_one_connection_and_cost_no_query(
    orders: AsyncEngine, counted: list[str]
) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = await armed_waits(watcher, range(1, ROWS + 1), interval=0.5)
        assert len(counted) < 40
        # The listener's connection sends heartbeats. There are no reads.
        await asyncio.sleep(QUICK.heartbeat)
        counted.clear()
        await asyncio.sleep(10 * QUICK.heartbeat)
        assert counted == []
        await orders.dispose()
        assert len(await backends(orders)) == 1
        counted.clear()
        await execute(orders, update(Order).values(n=1))
        assert [order.n for order in await asyncio.gather(*waits)] == [1] * ROWS
        assert len(counted) < 20


@pytest.mark.fault("B34")
async def test_a_thousand_polled_waits_share_one_query_a_tick(
    orders: AsyncEngine, counted: list[str]
) -> None:
    async with RowWatcher(orders, mode="poll") as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, key, interval=0.1))
            for key in range(1, ROWS + 1)
        ]
        await watcher.reached(lambda now: now.rereads >= ROWS)
        counted.clear()
        before = watcher.statistics().rereads
        await watcher.reached(lambda now: now.rereads >= before + 5 * ROWS)
        assert len(counted) <= 6
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


@pytest.mark.fault("B8", "B36")
async def test_a_flood_of_notifications_for_one_row_is_few_reads(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher)
        before = watcher.statistics().rereads
        async with orders.begin() as connection:
            oid = await connection.scalar(text("SELECT 'orders'::regclass::oid"))
            flood = f"SELECT pg_notify('rowbell', '1:{oid}:' || i) FROM generate_series(1, 20000) i"
            await connection.execute(text(flood))
            await connection.execute(text(f"SELECT pg_notify('rowbell', '1:{oid}:*')"))
        await execute(orders, update(Order).where(Order.id == 1).values(n=1))
        await wait
        # The read for the flood may see the update before the notification of the update arrives.
        await watcher.reached(lambda now: now.notifications >= 20002)
        assert watcher.statistics().rereads - before <= 5


async def test_a_notification_that_nobody_waits_for_ends_reached(orders: AsyncEngine) -> None:
    """The row stays registered for a while after its last wait."""
    change = update(Order).where(Order.id == 1).values(n=Order.n + 1)
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher)
        await execute(orders, change)
        await wait
        before = watcher.statistics().notifications
        more = asyncio.create_task(watcher.reached(lambda now: now.notifications > before))
        await asyncio.sleep(0)
        await execute(orders, change)
        await more


async def test_many_waits_for_one_row_hold_it_once(engine: AsyncEngine, database: URL) -> None:
    """A hundred waits for a row of one megabyte fetch it once at the start, and once to wake."""
    await execute(engine, insert(Order).values(id=1, note="x" * 1_000_000))
    tracemalloc.start()
    try:
        async with armed(engine, Order, *[1] * 100) as (_, waits):
            await execute(database, "UPDATE orders SET note = repeat('y', 1000000)")
            await asyncio.gather(*waits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
