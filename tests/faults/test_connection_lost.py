"""The LISTEN connection is lost, in any way and at any step. Every change is still seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import Reason, RowWatcher, Timing, WatcherState, WatcherStateError
from rowbell._watch.database.calls import Calls
from rowbell.embedded import EmbeddedServer
from rowbell.testing import create_database, drop_database
from support.catalogue import due, seen
from support.models import Base, Order
from support.observed import execute, kill_listener, listeners
from support.orders import CHANGE, change, changed
from support.proxy import Proxy
from support.roles import connected
from support.waits import IMPATIENT, LISTENING, POLLING, armed_on, armed_wait, reconnected


@pytest.mark.fault("B1")
async def test_a_change_made_while_the_connection_was_lost_is_seen(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    """All rows are read after the reconnect, also if the interval of the waits is an hour."""
    async with RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher)
        proxy.refusing = True
        proxy.cut()
        await watcher.reached(lambda now: now.state is POLLING and now.armed == 0)
        assert watcher.statistics().reason is Reason.CONNECTION_LOST
        await change(orders)
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1
        await watcher.reached(lambda now: now.state is LISTENING)
        assert watcher.statistics().reconnects == 1


@pytest.mark.fault("B1")
async def test_a_killed_backend_is_replaced(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, recheck=None, timing=IMPATIENT) as watcher:
        for key in range(1, 6):
            wait = await armed_wait(watcher, Order, key)
            reconnects = watcher.statistics().reconnects
            await kill_listener(orders)
            await watcher.reached(reconnected(reconnects, armed=1))
            await change(orders, key)
            assert (await seen(wait)).n == 1
        assert len(await listeners(orders)) == 1


@pytest.mark.fault("B4")
async def test_two_hundred_reconnects_leave_one_connection(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    timing = replace(IMPATIENT, healthy=0.001, backoff=0.001)
    async with RowWatcher(orders, listen_url=proxy.url, timing=timing) as watcher:
        for n in range(200):
            proxy.cut()
            await watcher.reached(reconnected(n, armed=0))
        assert len(await listeners(orders)) == 1


@pytest.mark.fault("B2", "B3")
async def test_a_half_open_connection_is_found_by_the_heartbeat(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    async with RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        proxy.stall()
        await change(orders)
        assert (await seen(wait)).n == 1
        assert watcher.statistics().state is POLLING
        proxy.resume()
        await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B1")
async def test_a_restarted_server_is_found_again() -> None:
    """The server restarts while one wait is armed, and crashes while another is armed."""
    with EmbeddedServer() as server:
        engine = create_async_engine(server.url, pool_pre_ping=True)
        async with engine.begin() as connection:
            await connection.execute(text('CREATE SCHEMA "Select"'))
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Order), [{"id": 1}])
        async with RowWatcher(engine, recheck=None, timing=IMPATIENT) as watcher:
            for stop in (server.restart, server.stop):
                wait = await armed_wait(watcher)
                stop()
                await watcher.reached(lambda now: now.state is POLLING)
                if stop == server.stop:
                    server.start()
                await execute(engine, update(Order).values(n=Order.n + 1))
                due()
                await seen(wait)
                await watcher.reached(lambda now: now.state is LISTENING)
        await engine.dispose()


@pytest.mark.fault("B3")
async def test_a_heartbeat_that_the_server_cancels_is_a_loss(
    orders: AsyncEngine, database: URL
) -> None:
    """The heartbeat waits for a lock and is canceled. The wait is polled at once, then armed."""
    async with armed_on(RowWatcher(orders, recheck=None, timing=IMPATIENT)) as (watcher, wait):
        cancel = (
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = "
            "'Lock' AND application_name LIKE 'rowbell%' AND datname = current_database()"
        )
        async with connected(database) as locker, locker.transaction():
            await locker.execute("LOCK TABLE rowbell.listener IN ACCESS EXCLUSIVE MODE")
            async with connected(database) as administrator:
                while not await administrator.fetchval(cancel):
                    await asyncio.sleep(0.01)  # the server does not announce that a session waits
            await watcher.reached(lambda now: now.state is POLLING)
            await changed(wait, database)
        await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B3")
@pytest.mark.parametrize("failure", [TimeoutError, ValueError, asyncio.CancelledError])
async def test_a_heartbeat_that_fails_in_any_way_is_a_loss(
    orders: AsyncEngine,
    database: URL,
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Calls.heartbeat, 0

    async def heartbeat(calls: Calls, tables: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise failure
        return await real(calls, tables)

    monkeypatch.setattr(Calls, "heartbeat", heartbeat)
    async with armed_on(RowWatcher(orders, recheck=None, timing=IMPATIENT)) as (watcher, wait):
        failures = 1
        if failure is asyncio.CancelledError:  # unexpected, so it must be logged
            await asyncio.wait([wait])
            assert watcher.statistics().state is WatcherState.CLOSED
            assert isinstance(wait.exception(), WatcherStateError)
            return
        await watcher.reached(lambda now: now.reconnects == 1 and now.armed == 1)
        await changed(wait, database)


STEPS = [
    "identify",
    "listen",
    "prepare_session",
    "open_listener",
    "heartbeat",
    "register",
    "boundary",
]


@pytest.mark.fault("B7")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_change_at_any_step_of_a_reconnect_is_seen(
    orders: AsyncEngine, database: URL, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No heartbeat and no read at an interval helps."""
    real, armed_once = getattr(Calls, step), False

    async def stepping(calls: Calls, *arguments: Any) -> Any:
        nonlocal armed_once
        change, armed_once = armed_once, False
        if change and when == "before":
            await execute(database, CHANGE)
        result = await real(calls, *arguments)
        if change and when == "after":
            await execute(database, CHANGE)
        return result

    monkeypatch.setattr(Calls, step, stepping)
    timing = replace(IMPATIENT, heartbeat=1000.0, answer=10.0)
    async with armed_on(RowWatcher(orders, recheck=None, timing=timing)) as (_, wait):
        armed_once = True
        await kill_listener(orders)
        await seen(wait)
        assert not armed_once


@pytest.mark.fault("B10")
async def test_a_server_that_kills_what_is_idle_in_a_transaction_kills_no_listener(
    orders: AsyncEngine, database: URL
) -> None:
    impatient = {"idle_in_transaction_session_timeout": "50"}
    engine = create_async_engine(database, connect_args={"server_settings": impatient})
    async with armed_on(RowWatcher(engine, recheck=None, timing=IMPATIENT)) as (watcher, wait):
        await asyncio.sleep(0.5)  # nothing may happen during this time
        await changed(wait, database)
        assert watcher.statistics().reconnects == 0
    await engine.dispose()


@pytest.mark.fault("B1")
async def test_a_change_while_the_listener_was_killed_and_kept_out_is_seen_when_it_is_back(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    """The interval is an hour. It is seen within the longest backoff plus one second."""
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=IMPATIENT)
    async with armed_on(watching) as (watcher, wait):
        proxy.refusing = True
        await kill_listener(orders)
        reads = watcher.statistics().queries
        await watcher.reached(lambda now: now.state is POLLING and now.queries > reads)
        await execute(database, CHANGE)
        assert not wait.done()
        proxy.refusing = False
        due()
        await seen(wait)


@pytest.mark.fault("B2")
async def test_after_a_half_open_connection_notifications_arrive_again(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=IMPATIENT)
    async with armed_on(watching) as (watcher, wait):
        proxy.stall()
        due()
        await execute(database, CHANGE)
        await seen(wait)  # the heartbeat finds the dead connection, and the row is read again
        proxy.resume()
        again = await armed_wait(watcher)
        await changed(again, database)


@pytest.mark.fault("B41")
async def test_a_database_is_dropped_under_a_listener_that_reconnects(server: URL) -> None:
    quick = Timing(backoff=0.001, backoff_limit=0.001)
    for number in range(10):
        name = f"dropped_{number}"
        url = server.set(database=name)
        await create_database(name, server_url=server)
        engine = create_async_engine(url)
        async with RowWatcher(engine, timing=quick) as watcher:
            await drop_database(name, server_url=server)
            await watcher.reached(lambda now: now.state is WatcherState.POLLING)
        await engine.dispose()
