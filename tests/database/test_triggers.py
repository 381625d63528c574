"""Triggers are installed and removed, and their state is reported."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import (
    LockTimeoutError,
    Reason,
    RowWatcher,
    TriggerError,
    TriggerState,
    install_triggers,
    remove_triggers,
)
from rowbell._watch.database.tables import is_declared
from support.models import Animal, Dog, Odd, Order, Plain
from support.observed import blocked, execute
from support.waits import QUICK, polled_because, run, states, woken


async def test_create_all_installs_the_triggers_of_watched_models(engine: AsyncEngine) -> None:
    assert await states(engine, Order, Dog, Plain) == [
        TriggerState.INSTALLED,
        TriggerState.INSTALLED,
        TriggerState.INSTALLED,
        TriggerState.MISSING,
    ]


@pytest.mark.fault("B19")
async def test_installing_again_executes_nothing(engine: AsyncEngine) -> None:
    """So a reader of the table, which would block DDL, does not matter."""
    async with engine.connect() as reader:
        await reader.execute(text("SELECT * FROM orders"))
        assert await run(engine, install_triggers, Order, Animal, Odd) == []


async def test_removed_triggers_are_missing_until_they_are_installed_again(
    engine: AsyncEngine,
) -> None:
    assert await run(engine, remove_triggers, Order)
    assert await run(engine, remove_triggers, Order) == []
    assert await states(engine, Order, Animal) == [TriggerState.MISSING, TriggerState.INSTALLED]
    assert await run(engine, install_triggers, Order)
    assert await states(engine, Order) == [TriggerState.INSTALLED]


async def test_a_function_goes_with_the_last_table_that_uses_it(engine: AsyncEngine) -> None:
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'changed\\_%'"
    async with engine.connect() as connection:
        before = await connection.scalar(text(functions))
        for table in rowbell_tables():
            await connection.run_sync(remove_triggers, table)
        assert (before, await connection.scalar(text(functions))) == (3, 0)


def rowbell_tables() -> list[Table]:
    return [table for table in Order.metadata.tables.values() if is_declared(table)]


async def test_other_options_are_outdated_until_installed(engine: AsyncEngine) -> None:
    table = Table("orders", MetaData(), Column("id", Integer, primary_key=True))

    @rowbell.watched(for_each="row")
    class ByRow(DeclarativeBaseOf, table=table):
        pass

    assert await states(engine, ByRow) == [TriggerState.OUTDATED]
    await run(engine, install_triggers, ByRow)
    assert await states(engine, ByRow) == [TriggerState.INSTALLED]
    assert await states(engine, Order) == [TriggerState.OUTDATED]
    await execute(engine, insert(Order).values(id=1))
    row = await woken(engine, Order, 1, "UPDATE orders SET n = 0", "UPDATE orders SET n = 1")
    assert row.n == 1


class DeclarativeBaseOf:
    """Maps a subclass imperatively to a table."""

    def __init_subclass__(cls, table: Table) -> None:
        from sqlalchemy.orm import registry

        registry().map_imperatively(cls, table)


async def test_a_disabled_trigger_is_reported_and_stays_disabled(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE orders DISABLE TRIGGER rowbell_delete"))
        await connection.execute(insert(Order).values(id=1))
    assert await states(engine, Order) == [TriggerState.DISABLED]
    assert await run(engine, install_triggers, Order) == []
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = await polled_because(watcher, Reason.TRIGGER_DISABLED)
        wait.cancel()
        await asyncio.wait([wait])


@pytest.mark.fault("B19")
async def test_a_lock_that_is_not_acquired_is_an_error_and_nothing_is_changed(
    engine: AsyncEngine,
) -> None:
    async with engine.connect() as writer:
        await writer.execute(text("LOCK TABLE plain IN ROW EXCLUSIVE MODE"))
        with pytest.raises(
            LockTimeoutError, match=r'SHARE ROW EXCLUSIVE lock on "public"\."plain" within 50ms'
        ):
            await run(engine, install_triggers, Plain, lock_timeout="50ms")
    assert await states(engine, Plain) == [TriggerState.MISSING]


async def test_the_callers_lock_timeout_is_back_after_installing(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL lock_timeout = '1234ms'"))
        await connection.run_sync(install_triggers, Plain)
        assert await connection.scalar(text("SHOW lock_timeout")) == "1234ms"


async def test_autocommit_is_refused_before_anything_is_done(engine: AsyncEngine) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        with pytest.raises(TriggerError, match="AUTOCOMMIT"):
            await connection.run_sync(install_triggers, Plain)
    assert await states(engine, Plain) == [TriggerState.MISSING]


@pytest.mark.parametrize(
    ("ddl", "table", "message"),
    [
        ("SELECT 1", "nowhere", "the table does not exist"),
        ("CREATE VIEW v AS SELECT 1 AS id", "v", "only ordinary and partitioned"),
        ("CREATE TABLE keyless (n int)", "keyless", "no primary key"),
        (
            (
                "CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id); "
                "CREATE TABLE part PARTITION OF whole DEFAULT"
            ),
            "part",
            "it is a partition",
        ),
    ],
)
async def test_tables_that_cannot_have_triggers_are_refused(
    engine: AsyncEngine, ddl: str, table: str, message: str
) -> None:
    key = [] if table == "keyless" else [Column("id", Integer, primary_key=True)]
    async with engine.begin() as connection:
        for statement in ddl.split("; "):
            await connection.execute(text(statement))
        with pytest.raises(TriggerError, match=message):
            await connection.run_sync(install_triggers, Table(table, MetaData(), *key))


async def test_triggers_for_another_key_are_never_trusted(engine: AsyncEngine) -> None:
    """A model with another primary key than its table would wait for hashes that nothing sends."""

    class Base(DeclarativeBase):
        pass

    class ByStatus(Base):
        __tablename__ = "orders"
        status: Mapped[str] = mapped_column(primary_key=True)

    await execute(engine, insert(Order).values(id=1))
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = await polled_because(watcher, Reason.TRIGGER_OUTDATED, ByStatus, "new")
        assert watcher.statistics().armed == 0
        wait.cancel()
        await asyncio.wait([wait])


@pytest.mark.fault("B19")
async def test_a_reader_that_stays_keeps_no_other_reader_waiting_for_our_ddl(
    orders: AsyncEngine,
) -> None:
    """pg_dump is such a reader. Removing times out early, and the error names the lock."""
    async with orders.connect() as dump, orders.connect() as reader:
        await dump.execute(text("LOCK TABLE orders IN ACCESS SHARE MODE"))
        removing = asyncio.create_task(
            run(orders, rowbell.remove_triggers, Order, lock_timeout="300ms")
        )
        await blocked(orders)
        await reader.execute(text("SELECT count(*) FROM orders"))
        with pytest.raises(rowbell.LockTimeoutError, match="ACCESS EXCLUSIVE"):
            await removing
