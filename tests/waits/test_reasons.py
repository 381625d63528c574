"""A wait that cannot be armed is polled, and the reason is reported."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy import URL, insert, update
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import ListenError, Reason, RowWatcher, TriggerError, wait_for_row_change
from rowbell._mapping import tables_of
from rowbell._watch.lifetime import opened
from support.models import Plain
from support.observed import execute
from support.waits import QUICK, polled_because, run


class Base(DeclarativeBase):
    pass


class Searchable(Base):
    __tablename__ = "searchable"
    id: Mapped[str] = mapped_column(TSVECTOR, primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


class ListedOrder(Base):
    """A mapped view."""

    __tablename__ = "listed_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


async def test_a_key_that_cannot_be_hashed_is_polled_and_said_so(
    engine: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["searchable"].create)
    await execute(database, "INSERT INTO searchable VALUES ('a:1', 0)")
    with pytest.raises(TriggerError, match="has no hash"):
        await run(engine, rowbell.install_triggers, Searchable)
    async with RowWatcher(engine, timing=QUICK) as watcher:
        for n in (1, 2):
            wait = await polled_because(watcher, Reason.NO_HASH, Searchable, "'a':1")
            await watcher.reached(lambda now: now.queries > 3)
            await execute(database, f"UPDATE searchable SET n = {n}")
            assert (await wait).n == n
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


async def test_create_all_creates_a_table_whose_key_cannot_be_hashed(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The table gets no triggers, and a warning is logged. Waits for its rows still work."""
    [table] = tables_of([rowbell.watched(Searchable)])
    async with engine.begin() as connection:
        await connection.run_sync(lambda c: Base.metadata.create_all(c, [table]))
    assert "has no hash" in caplog.text


async def test_a_view_is_polled_and_the_reason_does_not_advise_to_install_triggers(
    engine: AsyncEngine, database: URL
) -> None:
    await execute(
        database,
        "CREATE VIEW listed_orders AS SELECT id, n FROM orders",
        "INSERT INTO orders (id, status, n) VALUES (1, '', 0)",
    )
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = await polled_because(watcher, Reason.NOT_A_TABLE, ListedOrder, 1)
        assert "install" not in watcher.statistics().detail
        await execute(database, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_listen_mode_raises_for_a_table_without_triggers(orders: AsyncEngine) -> None:
    await execute(orders, insert(Plain).values(id=1))
    async with RowWatcher(orders, mode="listen") as watcher:
        with pytest.raises(ListenError, match=r"trigger_missing.*model Plain.*install_triggers"):
            await watcher.wait_for_change(Plain, 1, timeout=20)


@pytest.mark.fault("B29")
async def test_auto_mode_polls_a_table_without_triggers_and_says_so_once(
    orders: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(orders, insert(Plain).values(id=1))
    async with RowWatcher(orders) as watcher:
        for n in (1, 2):
            wait = await polled_because(watcher, Reason.TRIGGER_MISSING, Plain, 1)
            await execute(orders, update(Plain).values(n=n))
            assert (await wait).n == n
    [warning] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "table plain" in warning
    assert "install_triggers" in warning


async def test_waits_that_each_open_a_watcher_warn_only_once(
    orders: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(orders, insert(Plain).values(id=1))
    for _ in range(3):
        async with AsyncSession(orders) as session:
            wait = asyncio.create_task(wait_for_row_change(session, Plain, 1))
            await asyncio.sleep(0)  # the wait begins
            watcher = opened.get(orders)
            assert watcher is not None
            await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
            assert "model Plain" in watcher.statistics().detail
            assert "install_triggers" in watcher.statistics().detail
            wait.cancel()
            await asyncio.wait([wait])
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


async def test_a_database_without_rowbell_is_polled(server: URL) -> None:
    engine = create_async_engine(server)
    async with RowWatcher(engine) as watcher:
        assert watcher.statistics().reason is Reason.NOT_INSTALLED
    with pytest.raises(ListenError, match="no schema rowbell"):
        await RowWatcher(engine, mode="listen").__aenter__()
    await engine.dispose()
