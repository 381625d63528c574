"""The life of a RowWatcher: start, stop, sharing, and notifications without a change."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import URL, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import RowWatcher, WatcherState, WatcherStateError, wait_for_row_change
from rowbell._watch.lifetime import opened
from support.models import Order
from support.observed import execute
from support.orders import change
from support.waits import HOUR, armed, armed_wait, armed_waits, polled_wait


async def test_an_argument_that_raises_breaks_only_its_own_wait(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="poll") as watcher:
        wait = await polled_wait(watcher, interval=Decimal("0.01"), timeout=Decimal(20))
        with pytest.raises(ZeroDivisionError):
            await watcher.reached(lambda now: now.queries > 5 and 1 / 0)
        await execute(orders, update(Order).values(n=1))
        assert (await wait).n == 1


async def test_waits_that_are_over_are_forgotten(orders: AsyncEngine) -> None:
    """For any number of waits, also for armed waits without a scheduled read."""
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        for _ in range(10):
            waits = await armed_waits(watcher, range(1, 101))
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        assert watcher._board.schedule._entries < 300
        assert not watcher._board.watches


async def test_a_watcher_that_is_not_open_says_so(engine: AsyncEngine) -> None:
    watcher = RowWatcher(engine)
    with pytest.raises(WatcherStateError, match="not open: enter it"):
        await watcher.wait_for_change(Order, 1)
    async with watcher:
        pass
    with pytest.raises(WatcherStateError, match="closed: create a new one"):
        await watcher.wait_for_change(Order, 1)
    with pytest.raises(WatcherStateError, match="entered twice"):
        await watcher.__aenter__()
    await watcher.aclose()


@pytest.mark.fault("B38")
async def test_closing_ends_the_waits_with_an_error(orders: AsyncEngine) -> None:
    watcher = RowWatcher(orders, mode="listen")
    async with watcher:
        wait = await armed_wait(watcher)
    with pytest.raises(WatcherStateError, match="closed during the wait"):
        await wait


async def test_one_watcher_serves_an_engine(engine: AsyncEngine) -> None:
    async with RowWatcher(engine) as watcher:
        with pytest.raises(WatcherStateError, match="share it"):
            await RowWatcher(engine).__aenter__()
        copy = engine.execution_options(isolation_level="SERIALIZABLE")
        assert opened.get(copy) is watcher
    async with RowWatcher(engine):
        pass


@pytest.mark.fault("B11")
def test_a_second_event_loop_is_refused_and_can_have_its_own(database: URL) -> None:
    engine = create_async_engine(
        database, poolclass=NullPool
    )  # SQLAlchemy requires this for several event loops
    with asyncio.Runner() as one, asyncio.Runner() as two:
        watcher = RowWatcher(engine)
        one.run(watcher.__aenter__())
        with pytest.raises(WatcherStateError, match="another event loop"):
            two.run(watcher.wait_for_change(Order, 1))
        with pytest.raises(WatcherStateError, match="another event loop"):
            two.run(watcher.aclose())

        async def own() -> None:
            async with RowWatcher(engine, mode="listen"):
                pass

        two.run(own())
        one.run(watcher.aclose())
        one.run(engine.dispose())


@pytest.mark.fault("B17")
async def test_without_a_watcher_overlapping_waits_share_one(orders: AsyncEngine) -> None:
    async def wait(key: int) -> Order:
        async with AsyncSession(orders) as session:
            return await wait_for_row_change(session, Order, key, interval=HOUR)

    waits = [asyncio.create_task(wait(key)) for key in range(1, 11)]
    await asyncio.sleep(0)
    watcher = opened.get(orders)
    assert watcher is not None
    await watcher.reached(lambda now: now.armed == 10)
    await execute(orders, update(Order).values(n=1))
    assert [order.n for order in await asyncio.gather(*waits)] == [1] * 10
    assert watcher.statistics().state is WatcherState.CLOSED
    assert opened.get(orders) is None


async def test_forged_and_foreign_notifications_are_counted_and_ignored(
    orders: AsyncEngine,
) -> None:
    forged = ["", "hello", "1:", "1:x:1", "1:1:1,", "1:1:;DROP TABLE", "2", "x" * 7000, "1:1:٣"]
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher)
        async with orders.begin() as connection:
            for payload in forged:
                await connection.execute(text("SELECT pg_notify('rowbell', :p)"), {"p": payload})
            await connection.execute(update(Order).values(n=1))
        await wait
        assert watcher.statistics().ignored == len(forged)


async def test_a_notification_without_a_change_is_a_read_and_ends_no_wait(
    orders: AsyncEngine,
) -> None:
    async with armed(orders) as (watcher, wait):
        before = watcher.statistics().rereads
        await execute(
            orders, "SELECT pg_notify('rowbell', '1:' || 'orders'::regclass::oid || ':*')"
        )
        await watcher.reached(lambda now: now.rereads > before)
        assert not wait.done()
        await change(orders)
        assert (await wait).n == 1


@pytest.mark.fault("B27")
async def test_the_safety_re_read_finds_a_change_that_no_trigger_notified_of(
    orders: AsyncEngine,
) -> None:
    async with RowWatcher(orders, mode="listen", recheck=0.05) as watcher:
        wait = await armed_wait(watcher)
        async with orders.begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(update(Order).values(n=1))
        assert (await wait).n == 1


def test_waiting_under_another_event_loop_says_what_it_needs() -> None:
    """Here no event loop runs. Under trio the error is the same."""
    engine = create_async_engine("postgresql+asyncpg://nobody@nowhere/nothing")
    waiting = RowWatcher(engine).__aenter__()
    with pytest.raises(WatcherStateError, match="a running asyncio event loop"):
        waiting.send(None)
