"""Canceling or closing at any moment leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

import rowbell
from rowbell import RowWatcher, Timing, WatcherState, WatcherStateError, wait_for_row_change
from rowbell._watch.connections import Connections
from rowbell._watch.lifetime import opened
from support.catalogue import seen
from support.models import Order
from support.observed import blocked, execute, none_left
from support.orders import CHANGE
from support.waits import QUICK


def _lock_key(session: AsyncSession) -> Any:
    return rowbell.advisory_lock(session, "job")


def _lock_table(session: AsyncSession) -> Any:
    return rowbell.lock_tables(session, [Order])


async def _lock_row(session: AsyncSession) -> None:
    await rowbell.lock_rows(session, Order, [1])


@pytest.mark.parametrize("kind", ["key", "table", "row", "read"])
async def test_a_wait_for_a_lock_that_is_given_up_ends_on_the_server_too(
    orders: AsyncEngine, kind: str
) -> None:
    """A cancel scope of anyio cancels repeatedly, also during the cleanup."""
    async with orders.connect() as locker:
        await locker.execute(text("SELECT pg_advisory_lock(hashtextextended('job', 0))"))
        await locker.execute(text("SELECT FROM orders FOR UPDATE"))
        if kind != "key":
            await locker.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        for _ in range(5):
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_wait_for_lock, orders, kind, scope)
                await blocked(orders)
                scope.cancel()
            assert await _waiting(locker) == 0
        await locker.execute(text("SELECT pg_advisory_unlock_all()"))


async def _wait_for_lock(engine: AsyncEngine, kind: str, scope: anyio.CancelScope) -> None:
    with scope:
        async with AsyncSession(engine) as session:
            if kind == "key":
                async with _lock_key(session):
                    pass
            elif kind == "table":
                async with _lock_table(session):
                    pass
            elif kind == "row":
                await _lock_row(session)
            else:
                async with RowWatcher(engine, mode="poll", timing=Timing(close=0.1)) as watcher:
                    await watcher.wait_for_change(Order, 1)


async def _waiting(connection: AsyncConnection) -> int:
    """The number of sessions that wait for a lock, after ending sessions have ended."""
    query = text(
        "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE NOT l.granted AND a.datname = current_database()"
    )
    for _ in range(100):
        if not await connection.scalar(query):
            return 0
        await asyncio.sleep(0.01)
    return int(await connection.scalar(query) or 0)


@pytest.mark.parametrize("turns", range(6))
async def test_a_lock_that_is_granted_as_its_wait_is_cancelled_is_given_back(
    orders: AsyncEngine, turns: int
) -> None:
    async with orders.connect() as other, AsyncSession(orders) as session:
        key = text("SELECT pg_advisory_lock(hashtextextended('job', 0))")
        await other.execute(key)
        lock = rowbell.advisory_lock(session, "job")  # keep it: if dropped, it unlocks
        entered = asyncio.create_task(lock.__aenter__())
        waiting = text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        while not await other.scalar(waiting):
            await asyncio.sleep(0.01)  # the server does not announce that a session waits
        await other.execute(text("SELECT pg_advisory_unlock_all()"))
        for _ in range(turns):
            await asyncio.sleep(0)  # a different moment in each round
        entered.cancel()
        await asyncio.wait([entered])
        held = text(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE"
            " l.locktype = 'advisory' AND a.datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        with anyio.fail_after(10):
            while await other.scalar(held) != (not entered.cancelled()):
                await asyncio.sleep(0.01)  # the server sends nothing when a lock changes
        if not entered.cancelled():
            await lock.__aexit__(None, None, None)
        await other.rollback()


@pytest.mark.fault("B17")
async def test_a_wait_without_a_watcher_leaves_no_session(
    orders: AsyncEngine, database: URL
) -> None:
    async with AsyncSession(orders) as session:
        wait = asyncio.create_task(
            wait_for_row_change(session, Order, 1, since={"n": 0}, timeout=60)
        )
        await execute(database, CHANGE)
        await seen(wait)
    await orders.dispose()
    await none_left(orders)


@pytest.mark.fault("B37")
async def test_a_wait_that_is_cancelled_at_any_turn_of_the_loop_leaves_nothing(
    orders: AsyncEngine, database: URL
) -> None:
    """One wait for each of 200 turns, while a change is in flight."""
    before = asyncio.all_tasks()
    async with RowWatcher(orders, timing=QUICK) as watcher:
        running = asyncio.all_tasks()
        for turns in range(200):
            async with AsyncSession(orders) as session:
                wait = asyncio.create_task(wait_for_row_change(session, Order, 1, since={"n": -1}))
                for _ in range(turns):
                    await asyncio.sleep(0)
                wait.cancel()
                await asyncio.wait([wait])
                assert wait.cancelled() or not wait.exception()
        now = watcher.statistics()
        assert now.armed + now.polled == 0
        while orders.pool.checkedout():  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)  # a read for them is still running
        await watcher.reached(lambda _: asyncio.all_tasks() <= running)
    assert asyncio.all_tasks() == before


@pytest.mark.fault("B37")
async def test_start_and_stop_at_any_moment_leave_nothing_behind(
    orders: AsyncEngine, database: URL
) -> None:
    """Closed while it connects, proves, registers or reads: no task, connection or row is left."""
    before = asyncio.all_tasks()
    for step in range(60):
        watcher = RowWatcher(orders, timing=QUICK)
        watcher.start()
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
        for _ in range(step):
            await asyncio.sleep(0.0005)  # a different moment in each round
        await watcher.aclose()
        with pytest.raises(WatcherStateError):
            await wait
    assert asyncio.all_tasks() == before
    await orders.dispose()
    async with orders.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM rowbell.registration")) == 0
    await none_left(orders)


@pytest.mark.fault("B37")
async def test_cancellation_at_any_moment_leaves_nothing_behind(orders: AsyncEngine) -> None:
    before = asyncio.all_tasks()
    for step in range(60):
        async with AsyncSession(orders) as session:
            wait = asyncio.create_task(
                wait_for_row_change(session, Order, 1, since={"n": -1} if step % 2 else None)
            )
            for _ in range(step):
                await asyncio.sleep(0.0005)  # a different moment in each round
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled() or not wait.exception()
    assert asyncio.all_tasks() == before
    assert opened.get(orders) is None
    assert orders.pool.checkedout() == 0  # type: ignore[attr-defined]
    await orders.dispose()
    gc.collect()
    await none_left(orders)


async def test_a_read_that_is_cancelled_when_its_connection_fails_gives_it_back(
    engine: AsyncEngine,
) -> None:
    used: list[Connection] = []

    def fail(connection: Connection) -> None:
        used.append(connection)
        try:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        finally:
            reading.cancel()

    reading = asyncio.create_task(Connections(engine).run(fail))
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [connection.closed for connection in used] == [True]


async def test_a_close_that_is_cancelled_still_closes(orders: AsyncEngine) -> None:
    """Also by ``Task.cancel()``; a shielded anyio scope does not stop that."""
    before = asyncio.all_tasks()
    watcher = RowWatcher(orders)
    watcher.start()
    await watcher.reached(lambda now: now.state is WatcherState.LISTENING)
    closing = asyncio.create_task(watcher.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert asyncio.all_tasks() == before
    await orders.dispose()
    await none_left(orders)
