"""Reads fail or take long. They are repeated, and the wait ends within its timeout."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import RowWatcher, Timing, WaitTimeoutError
from rowbell._watch.reading import endings
from rowbell.embedded import EmbeddedServer
from support.catalogue import due, seen
from support.models import Item, Order, Plain
from support.observed import execute
from support.orders import change
from support.proxy import Proxy
from support.waits import HOUR, IMPATIENT, armed_wait, polled_wait


async def test_a_notification_whose_reads_fail_is_not_forgotten(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    """LISTEN works, but reads fail. The change is read at the interval."""
    engine = create_async_engine(proxy.url, poolclass=NullPool)
    async with RowWatcher(engine, listen_url=database, recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        proxy.refusing = True
        accepted = proxy.accepted
        await change(orders)
        await proxy.has_accepted(accepted + 6)
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1


async def test_a_condition_whose_reads_fail_is_asked_again(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that the predicate should see is not lost with the connection."""
    load, failures = endings.finish, [ConnectionResetError("gone"), ConnectionResetError("gone")]

    def finish(*arguments: Any) -> int:
        if arguments[2] and failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr("rowbell._watch.reading.reader.finish", finish)
    async with RowWatcher(orders, mode="poll") as watcher:
        order = await watcher.wait_for_change(
            Order, 1, interval=0.02, timeout=20, until=lambda order: order.n == 0, since={"n": 0}
        )
    assert order.n == 0


async def test_a_reading_that_fails_for_a_while_is_repeated(
    database: URL, proxy: Proxy, orders: AsyncEngine
) -> None:
    engine = create_async_engine(proxy.url, pool_pre_ping=True)
    async with RowWatcher(engine, mode="poll", timing=IMPATIENT) as watcher:
        wait = await polled_wait(watcher, interval=0.02)
        proxy.refusing = True
        proxy.cut()
        await change(orders)
        accepted = proxy.accepted
        await proxy.has_accepted(accepted + 3)
        assert not wait.done()
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1
    await engine.dispose()


@pytest.mark.fault("B32")
async def test_a_server_that_does_not_answer_ends_no_later_than_the_last_read(
    proxy: Proxy, orders: AsyncEngine
) -> None:
    engine = create_async_engine(proxy.url)
    timing = Timing(last_read=0.2, close=0.1)
    watcher = RowWatcher(engine, mode="poll", timing=timing)
    async with watcher:
        wait = await polled_wait(watcher, interval=0.02, timeout=0.3)
        proxy.stall()
        with pytest.raises(WaitTimeoutError, match="has not answered"):
            await wait
        proxy.resume()
    await engine.dispose()


async def test_a_notified_row_behind_a_lock_holds_up_no_other_table(
    orders: AsyncEngine,
) -> None:
    await execute(orders, "INSERT INTO items VALUES (1, 1, '')")
    async with (
        RowWatcher(orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher,
        orders.connect() as locker,
    ):
        first, other = await armed_wait(watcher), await armed_wait(watcher, Item, 1)
        await locker.execute(update(Order).where(Order.id == 1).values(n=1))
        await locker.commit()
        await first
        await locker.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        blocked = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=HOUR))
        await execute(orders, update(Item).values(name="changed"))
        assert (await other).name == "changed"
        await locker.execute(update(Order).where(Order.id == 2).values(n=1))
        await locker.commit()
        blocked.cancel()
        await asyncio.wait([blocked])


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_what_a_timeout_of_the_server_ends_is_read_again(
    orders: AsyncEngine, database: URL, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the first read, and the query for ``since``. The log reports it once."""
    impatient = create_async_engine(database, connect_args={"server_settings": {setting: "20"}})
    async with orders.connect() as locker, RowWatcher(impatient, mode="poll") as watcher:
        await locker.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.02, timeout=30))
        await watcher.reached(lambda now: now.queries > 3)
        assert not wait.done()
        await locker.rollback()
        reads = watcher.statistics().queries
        await watcher.reached(lambda now: now.queries > reads + 1)
        await locker.execute(update(Order).values(n=1))
        await locker.commit()
        assert (await wait).n == 1
    await impatient.dispose()
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [("read failed" in line, "succeed again" in line) for line in said] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("since", [None, {"n": 0}], ids=["plain", "since"])
async def test_a_wait_may_begin_while_the_server_is_down(since: Any) -> None:
    """It has a timeout. Its first read is repeated soon, even if its interval is long."""
    with EmbeddedServer() as server:
        engine = create_async_engine(server.url)
        await execute(
            server.url,
            "CREATE TABLE plain (id int PRIMARY KEY, n int NOT NULL)",
            "INSERT INTO plain VALUES (1, 0)",
        )
        timing = Timing(first_read=0.05)
        async with RowWatcher(engine, mode="poll", timing=timing) as watcher:
            if since:
                await execute(server.url, "UPDATE plain SET n = 1")
            server.stop()
            interval = 3600 if since else 0.5
            wait = asyncio.create_task(
                watcher.wait_for_change(Plain, 1, since=since, interval=interval, timeout=60)
            )
            await watcher.reached(lambda now: now.failed_reads > 1)
            server.start()
            if not since:
                await watcher.reached(lambda now: now.queries > 0)
                await execute(server.url, "UPDATE plain SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()


async def test_an_engine_that_cannot_connect_at_all_is_an_error_at_once(database: URL) -> None:
    """A wrong name is a permanent error. A wait without a first read raises the driver's error."""
    nowhere = create_async_engine(database.set(database="no_such_database"))
    async with RowWatcher(nowhere, mode="poll") as watcher:
        with pytest.raises((DBAPIError, asyncpg.PostgresError), match="no_such_database"):
            await watcher.wait_for_change(Order, 1)


@pytest.mark.fault("B32")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_loop_that_was_held_up_still_reads_once_more(
    orders: AsyncEngine, database: URL, mode: str
) -> None:
    """The change is committed before the deadline. The loop is blocked until long after it."""
    timing = Timing(last_read=0.1)
    async with RowWatcher(orders, mode=mode, timing=timing) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=60, timeout=0.4))
        await watcher.reached(lambda now: now.queries > 0)

        def change() -> None:
            asyncio.run(execute(database, "UPDATE orders SET n = 1", "SELECT pg_sleep(1)"))

        writer = threading.Thread(target=change)
        writer.start()
        writer.join()  # blocks the event loop
        assert (await wait).n == 1


@pytest.mark.fault("B32")
async def test_reads_that_are_slow_count_in_the_timeout(orders: AsyncEngine) -> None:
    """The wait ends after its half second, although each read waits for a lock."""
    timing = Timing(last_read=0.3)
    async with RowWatcher(orders, mode="poll", timing=timing) as watcher, orders.connect() as c:
        wait = await polled_wait(watcher, interval=0.02, timeout=0.5)
        await c.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        begun = asyncio.get_running_loop().time()
        with pytest.raises(WaitTimeoutError):
            await wait
        assert asyncio.get_running_loop().time() - begun < 2
