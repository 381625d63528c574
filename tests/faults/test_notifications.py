"""Notifications arrive in any number and at any moment. No change is lost."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from support.catalogue import due, seen
from support.models import Order
from support.observed import execute, kill_listener
from support.orders import CHANGE
from support.roles import connected
from support.waits import HOUR, IMPATIENT, armed, armed_wait, reconnected


@pytest.mark.fault("B8")
async def test_a_storm_of_notifications_hides_no_change(orders: AsyncEngine, database: URL) -> None:
    """Also while waits begin and end, and while LISTEN is executed again."""
    storm = "SELECT pg_notify('rowbell', '1:' || 'orders'::regclass::oid || ':' || i)"
    async with orders.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        stop = asyncio.Event()

        async def rage() -> None:
            while not stop.is_set():
                await connection.execute(text(f"{storm} FROM generate_series(1, 200) AS i"))

        async def follow(watcher: RowWatcher, key: int) -> None:
            for n in range(10):
                wait = asyncio.create_task(
                    watcher.wait_for_change(Order, key, since={"n": n}, interval=HOUR)
                )
                await asyncio.sleep(0)
                await execute(database, f"UPDATE orders SET n = n + 1 WHERE id = {key}")
                assert (await seen(wait)).n == n + 1

        async with (
            RowWatcher(orders, recheck=None, timing=replace(IMPATIENT, answer=5.0)) as watcher,
            asyncio.TaskGroup() as tasks,
        ):
            raging = tasks.create_task(rage())
            async with asyncio.TaskGroup() as followers:
                for key in range(1, 11):
                    followers.create_task(follow(watcher, key))
                for n in range(3):
                    await kill_listener(orders)
                    await watcher.reached(reconnected(n))
            stop.set()
            await raging


@pytest.mark.fault("B39")
async def test_a_change_right_after_a_wait_is_reported_as_armed_ends_it(
    orders: AsyncEngine, database: URL
) -> None:
    """Thirty times. Only the notification can end the wait."""
    async with connected(database) as writer, RowWatcher(orders, recheck=None) as watcher:
        for key in range(1, 31):
            wait = await armed_wait(watcher, Order, key)
            await writer.execute("UPDATE orders SET n = n + 1 WHERE id = $1", key)
            due()
            await seen(wait)


@pytest.mark.fault("B36")
async def test_two_hundred_thousand_notifications_of_one_row_are_few_reads(
    orders: AsyncEngine, database: URL
) -> None:
    """Each names the watched row. A wake only sets a flag, so memory does not grow."""
    flood = (
        "SELECT count(pg_notify('rowbell', '1:' || r.table_oid || ':' || r.key_hash || ',' || i))"
        " FROM rowbell.registration AS r, generate_series(1, 10000) AS i"
    )
    async with armed(orders) as (watcher, wait):
        before = watcher.statistics().rereads
        tracemalloc.start()
        try:
            for _ in range(20):
                await execute(database, flood)
            await watcher.reached(lambda now: now.notifications >= 200_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 30_000_000
        assert watcher.statistics().rereads - before < 2_000
        assert not wait.done()
        await execute(database, CHANGE)
        await seen(wait)
