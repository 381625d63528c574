"""Changes that are committed late, or without a notification."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

import rowbell
from rowbell import RowWatcher, WaitTimeoutError
from support.catalogue import due, seen
from support.models import Order
from support.observed import execute
from support.orders import CHANGE, change
from support.waits import IMPATIENT, QUICK, armed, armed_wait, has_read, run


@pytest.mark.fault("B26")
async def test_a_change_that_was_muted_is_seen_at_the_next_heartbeat(
    orders: AsyncEngine, database: URL
) -> None:
    """Two-phase commit needs ``SET rowbell.notify = off``. It delays a change, but loses none."""
    async with RowWatcher(orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.connect() as connection:
            await connection.execute(text("SET LOCAL rowbell.notify = off"))
            await connection.execute(update(Order).where(Order.id == 1).values(n=1))
            await connection.execute(text("PREPARE TRANSACTION 'one'"))
            await connection.rollback()
        heard = watcher.statistics().notifications
        await watcher.reached(lambda now: now.polled == 1)
        await execute(database, "COMMIT PREPARED 'one'")
        assert (await seen(wait)).n == 1
        assert watcher.statistics().notifications == heard


async def test_an_old_transaction_elsewhere_delays_arming_only_shortly(
    orders: AsyncEngine, server: URL
) -> None:
    """A transaction that wrote to another table hours ago does not keep waits polled."""
    elsewhere = create_async_engine(server, poolclass=NullPool)
    async with (
        elsewhere.connect() as old,
        RowWatcher(orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher,
    ):
        await old.execute(text("SELECT pg_current_xact_id()"))
        wait = await armed_wait(watcher)
        await change(orders)
        assert (await seen(wait)).n == 1
    await elsewhere.dispose()


@pytest.mark.fault("B7")
async def test_arming_waits_for_an_old_writer_of_the_table(orders: AsyncEngine) -> None:
    """Its change sent no notification, so the wait is armed only after the writer has ended."""
    async with (
        orders.connect() as writer,
        RowWatcher(orders, mode="listen", recheck=None, timing=IMPATIENT) as watcher,
    ):
        await writer.execute(update(Order).where(Order.id == 1).values(n=1))
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        queries = 0
        for _ in range(5):
            await watcher.reached(has_read(queries))
            queries = watcher.statistics().queries
            assert watcher.statistics().armed == 0
        await writer.commit()
        assert (await seen(wait)).n == 1


@pytest.mark.fault("B23")
async def test_statements_that_change_nothing_send_no_notification(orders: AsyncEngine) -> None:
    """The listener receives nothing either."""
    idle = [
        "UPDATE orders SET n = n",
        "UPDATE orders SET n = 5 WHERE false",
        "DELETE FROM orders WHERE false",
        "INSERT INTO orders (id, status, n) VALUES (1, '', 7) ON CONFLICT DO NOTHING",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET n = orders.n",
    ]
    async with armed(orders) as (watcher, wait):
        async with orders.connect() as connection:
            for statement in idle:
                await connection.execute(text(statement))
                await connection.commit()
            assert watcher.statistics().notifications == 0
            await connection.execute(text(CHANGE))
            await connection.commit()
        due()
        await seen(wait)
        assert watcher.statistics().notifications == 1


class VersionedBase(DeclarativeBase):
    pass


class Versioned(VersionedBase):
    """A model with a version column."""

    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    version: Mapped[int]


@pytest.mark.fault("B42")
@pytest.mark.parametrize("installed", [True, False])
async def test_there_and_back_is_a_change_of_a_version_column_alone(
    engine: AsyncEngine, database: URL, installed: bool
) -> None:
    """The status changes and changes back between two reads. Only the version is different."""
    async with engine.begin() as connection:
        await connection.run_sync(VersionedBase.metadata.create_all)
        await connection.execute(insert(Versioned).values(id=1, status="a", version=1))
    if installed:
        await run(engine, rowbell.install_triggers, Versioned)
    async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(
                    Versioned, 1, columns=[column], interval=0.05, timeout=timeout
                )
            )
            for column, timeout in (("status", 2), ("version", 60))
        ]
        await watcher.reached(lambda now: now.armed == 2 if installed else now.rereads > 2)
        async with engine.connect() as one:
            # No read can happen between the two changes.
            await one.execute(text("LOCK TABLE versioned IN ACCESS EXCLUSIVE MODE"))
            await one.execute(text("UPDATE versioned SET status = 'b', version = 2"))
            await one.execute(text("UPDATE versioned SET status = 'a', version = 3"))
            await one.commit()
        due()
        assert (await seen(waits[1])).version == 3
        with pytest.raises(WaitTimeoutError):
            await waits[0]
