"""The notification queue is full."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from support.catalogue import seen
from support.models import Order
from support.orders import change
from support.queue import queue_held
from support.waits import IMPATIENT, armed_wait


@pytest.mark.fault("B21")
async def test_a_full_notification_queue_fails_no_write_and_loses_no_change(
    primary_orders: AsyncEngine,
) -> None:
    """PostgreSQL would reject the next NOTIFY."""
    async with RowWatcher(primary_orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with queue_held(primary_orders):
            async with primary_orders.begin() as connection:
                filler = "SELECT count(pg_notify('elsewhere', repeat('x', 7900) || i))"
                await connection.execute(text(f"{filler} FROM generate_series(1, 60) AS i"))
            async with primary_orders.connect() as connection:
                usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
                assert usage is not None
                assert usage > 0.9
            heard = watcher.statistics().notifications
            await change(primary_orders)
            assert (await seen(wait)).n == 1
            assert watcher.statistics().notifications == heard


@pytest.mark.fault("B21")
async def test_a_queue_that_was_full_to_the_end_recovers_by_itself(
    primary_orders: AsyncEngine,
) -> None:
    """Another program's NOTIFY fails, our writer does not. A heartbeat later, waits work again."""
    notify = text("SELECT pg_notify('elsewhere', repeat('x', 7900) || random())")
    async with RowWatcher(primary_orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with queue_held(primary_orders):
            async with primary_orders.connect() as full:
                with pytest.raises(DBAPIError, match="too many notifications"):
                    while True:
                        await full.execute(notify)
                        await full.commit()
            await change(primary_orders)
            assert (await seen(wait)).n == 1
        again = await armed_wait(watcher)
        usage = text("SELECT pg_notification_queue_usage()")
        async with primary_orders.connect() as connection:
            while (await connection.scalar(usage) or 0) > 0.1:
                await connection.commit()
                await asyncio.sleep(0.02)  # the server does not announce that its queue is empty
        heard = watcher.statistics().notifications
        await change(primary_orders)
        assert (await seen(again)).n == 2
        assert watcher.statistics().notifications > heard


@pytest.mark.fault("B21")
async def test_commits_that_fill_the_queue_together_never_fail(primary_orders: AsyncEngine) -> None:
    """Each trigger found enough room for its own notification. All of them fit together too."""
    async with primary_orders.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(2, 2001)])
        await connection.execute(text(f"SELECT setval('rowbell.table_flags', {2**62 - 1})"))
        await connection.execute(
            text(
                "INSERT INTO rowbell.registration SELECT 'orders'::regclass,"
                " hash_record_extended(ROW(o.id), 0), listener"
                " FROM orders AS o, generate_series(1000, 1019) AS listener"
            )
        )

    async def write(number: int) -> None:
        async with primary_orders.connect() as connection:
            for i in range(25):
                last = 49 if i % 10 else 249
                await connection.execute(
                    text("UPDATE orders SET n = n + 1 WHERE id BETWEEN :first AND :last"),
                    {"first": number * 250, "last": number * 250 + last},
                )
                await connection.commit()

    async with queue_held(primary_orders):
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(write(number))
        async with primary_orders.connect() as connection:
            usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
            unsent = text("SELECT is_called FROM rowbell.unsent_notifications")
            assert (usage or 0) > 0.3
            assert await connection.scalar(unsent)
