"""The waits and the application share a small pool."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import undefer
from sqlalchemy.pool import NullPool

from rowbell import RowWatcher, wait_for_row_change
from support.catalogue import seen
from support.models import Order
from support.observed import KILL_ALL, execute
from support.orders import add_orders, change, changed
from support.roles import role
from support.waits import IMPATIENT, QUICK, armed, armed_on, armed_wait


@pytest.mark.fault("B9", "B34")
async def test_a_pool_full_of_waiting_sessions_is_no_deadlock(
    orders: AsyncEngine, database: URL
) -> None:
    """Sessions that wait hold all connections of the pool. Their reads still happen."""
    engine = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=5)
    for n, mode in enumerate(("poll", "listen")):
        async with (
            RowWatcher(engine, mode=mode, timing=IMPATIENT) as watcher,
            AsyncSession(engine) as one,
            AsyncSession(engine) as two,
        ):
            await asyncio.gather(one.connection(), two.connection())
            waits = [
                asyncio.create_task(
                    wait_for_row_change(
                        session, Order, 2, interval=0.05, timeout=10, since={"n": n}
                    )
                )
                for session in (one, two)
            ]
            await watcher.reached(lambda now: now.armed + now.polled == 2 and now.queries > 0)
            await change(orders, 2)
            for wait in waits:
                await wait
    await engine.dispose()


@pytest.mark.fault("B9")
async def test_a_pool_of_one_connection_serves_the_application_while_waits_stand(
    orders: AsyncEngine, database: URL
) -> None:
    """It is checked out, used and closed 50 times. The listener is not affected."""
    engine = create_async_engine(database, pool_size=1, max_overflow=0, pool_timeout=1)
    async with armed_on(RowWatcher(engine, recheck=None, timing=IMPATIENT)) as (watcher, wait):
        for _ in range(50):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await connection.invalidate()
        await changed(wait, database)
        assert watcher.statistics().reconnects == 0
    await engine.dispose()


@pytest.mark.fault("B34")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_thousand_waits_leave_a_pool_of_two_to_the_application(
    orders: AsyncEngine, database: URL, mode: str
) -> None:
    """The application always gets a connection. None is idle in a transaction."""
    await add_orders(orders, 101, 1000)
    small = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=2)
    async with RowWatcher(small, mode=mode, recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, interval=0.3, timeout=60))
            for i in range(1, 1001)
        ]
        await watcher.reached(
            lambda now: now.armed == 1000 if mode == "listen" else now.rereads > 1000
        )
        idle = text(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(50):
            async with small.connect() as connection:
                assert await connection.scalar(idle) == 0
        await execute(database, "UPDATE orders SET n = n + 1")
        await seen(asyncio.gather(*waits))
    await small.dispose()


async def test_a_pool_that_is_exhausted_is_the_callers_error(
    orders: AsyncEngine, database: URL
) -> None:
    """A session that has to select its row waits for the pool's timeout, not forever."""
    small = create_async_engine(database, pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with RowWatcher(small, timing=QUICK) as watcher, AsyncSession(small) as session:
        order = await session.get_one(Order, 2)
        await session.commit()
        wait = await armed_wait(watcher, session, Order, 2, options=[undefer(Order.note)])
        async with small.connect():
            await execute(database, "UPDATE orders SET n = -1")
            with pytest.raises(PoolTimeoutError):
                await wait
        assert order in session
    await small.dispose()


async def test_a_wait_outlasts_too_many_connections(orders: AsyncEngine, database: URL) -> None:
    async with role(database, "GRANT SELECT ON orders TO {role}") as url:
        mine = create_async_engine(url, poolclass=NullPool)
        async with RowWatcher(mine, mode="poll") as watcher:
            await execute(database, f"ALTER ROLE {url.username} CONNECTION LIMIT 0")
            wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.02, timeout=30))
            await watcher.reached(lambda now: now.failed_reads > 2)
            await execute(database, f"ALTER ROLE {url.username} CONNECTION LIMIT -1")
            await watcher.reached(lambda now: now.queries > 0)
            await execute(database, "UPDATE orders SET n = 1")
            assert (await wait).n == 1


async def test_a_change_is_seen_though_all_connections_of_the_pool_were_killed(
    orders: AsyncEngine, database: URL
) -> None:
    """For example by an idle timeout. The next read at the interval is far away."""
    async with armed(orders) as (_, wait):
        await execute(database, KILL_ALL, "UPDATE orders SET n = 1")
        assert (await wait).n == 1
