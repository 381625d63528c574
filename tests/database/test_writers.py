"""The effects on a writer: it never fails because of rowbell, and its calls are counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

import rowbell
from rowbell import RowWatcher, Timing, TriggerState
from rowbell._watch.database.schema import COMPACT_BEYOND
from support.calls import calls
from support.models import Item, Order
from support.observed import blocked, execute
from support.roles import connected, register
from support.waits import armed, armed_wait, states, woken

FLAG = text("SELECT (last_value <> 0)::integer FROM rowbell.table_flags")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
async def test_while_nobody_watches_a_statement_costs_one_call_that_looks_at_a_flag(
    writer: AsyncConnection, isolation: str
) -> None:
    await writer.execute(text(f"SET default_transaction_isolation = '{isolation}'"))
    await writer.commit()
    for statement in (
        "UPDATE orders SET n = n + 1",
        "DELETE FROM orders",
        "TRUNCATE orders CASCADE",
    ):
        assert set(await calls(writer, statement)) == {"changed"}


async def test_while_another_row_is_watched_a_statement_asks_once_and_notifies_nobody(
    orders: AsyncEngine, writer: AsyncConnection
) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher)
        assert await calls(writer, "UPDATE orders SET n = n + 1 WHERE id > 1") == {"changed": 1}
        called = await calls(writer, "UPDATE orders SET n = n + 1")
        assert called == {"changed": 1, "notify": 1, "channel": 1}
        assert (await wait).n == 1
    # The flag is lowered after the last listener has closed.
    assert await writer.scalar(FLAG) == 0


async def test_the_flag_stays_up_while_somebody_registers(
    orders: AsyncEngine, database: URL
) -> None:
    """A listener lowers the flag while another registers, in any order of their steps."""
    async with connected(database) as comes, connected(database) as leaves:
        lower = "SELECT rowbell.lower_flags()"
        await comes.execute("SELECT rowbell.open_listener()")
        transaction = comes.transaction()
        await transaction.start()
        assert await register(comes, "orders", 1) is None
        await leaves.execute(lower)
        assert await leaves.fetchval(FLAG.text) == 1
        await transaction.commit()
        await leaves.execute(lower)
        assert await leaves.fetchval(FLAG.text) == 1
        await comes.execute("SELECT rowbell.close_listener()")
        await leaves.execute(lower)
        assert await leaves.fetchval(FLAG.text) == 0
        # If it is 0 by mistake, the next heartbeat of any listener raises it.
        await comes.execute("SELECT rowbell.open_listener()")
        await register(comes, "orders", 1)
        await comes.execute("SELECT setval('rowbell.table_flags', 0)")
        await leaves.execute(lower)
        assert await leaves.fetchval(FLAG.text) == 1


async def test_a_writer_searches_only_while_rows_of_its_table_are_watched(
    orders: AsyncEngine, writer: AsyncConnection
) -> None:
    """Whatever is watched elsewhere: each table has its flag, which few others share."""
    searched = text("SELECT pg_stat_get_xact_numscans('rowbell.registration_pkey'::regclass)")

    async def searches(statement: str) -> bool:
        async with writer.begin():
            await writer.execute(text(statement))
            return bool(await writer.scalar(searched))

    await writer.execute(insert(Item).values(id=1, order_id=2))
    await writer.commit()
    shared = text(
        "SELECT rowbell.table_flag('items'::regclass) = rowbell.table_flag('orders'::regclass)"
    )
    shares = bool(await writer.scalar(shared))
    await writer.rollback()
    async with armed(orders):
        assert await searches("UPDATE items SET name = 'x'") == shares
        assert await searches("UPDATE orders SET n = 1 WHERE id = 2")


async def test_two_sessions_that_raise_flags_at_once_lose_none(
    orders: AsyncEngine, database: URL
) -> None:
    flags = "SELECT last_value FROM rowbell.table_flags"
    async with connected(database) as first, connected(database) as second:
        for each in (first, second):
            await each.execute("SELECT rowbell.open_listener()")
        async with first.transaction():
            await register(first, "orders", 1)
            await register(second, "items", 1)  # it does not wait for the other's commit
        expected = await first.fetchval(
            "SELECT rowbell.table_flag('orders'::regclass) | rowbell.table_flag('items'::regclass)"
        )
        assert await first.fetchval(flags) == expected
        await second.execute("SELECT rowbell.close_listener(), rowbell.lower_flags()")
        assert await first.fetchval(flags) == await first.fetchval(
            "SELECT rowbell.table_flag('orders'::regclass)"
        )


async def test_locks_that_any_role_can_take_do_not_keep_a_flag_from_being_raised(
    orders: AsyncEngine, database: URL
) -> None:
    """COMMENT and CREATE STATISTICS lock a table before they look at the caller's rights."""
    async with connected(database) as other, connected(database) as listener:
        await listener.execute("SELECT rowbell.open_listener()")
        async with other.transaction():
            for table in ("registration", "listener", "registration_limit"):
                await other.execute(f"LOCK TABLE rowbell.{table} IN SHARE UPDATE EXCLUSIVE MODE")
            assert await register(listener, "orders", 1) is None
        assert await other.fetchval("SELECT last_value FROM rowbell.table_flags") > 0


async def test_only_registered_rows_raise_a_flag(orders: AsyncEngine, database: URL) -> None:
    """Not the tables that a caller only names, and not those with an obstacle."""
    async with connected(database) as session:
        await session.execute("SELECT rowbell.open_listener()")
        await session.execute(
            "SELECT rowbell.register(ARRAY['orders'::regclass, 'items'::regclass]::oid[],"
            " ARRAY['{}', '{}']::bytea[], ARRAY[NULL, NULL]::text[], '{}', '{}', '{}')"
        )
        assert await session.fetchval("SELECT last_value FROM rowbell.table_flags") == 0
        assert await register(session, "pg_class", 1) is not None
        assert await session.fetchval("SELECT last_value FROM rowbell.table_flags") == 0


async def test_a_watched_row_among_many_is_one_notification_wherever_it_is(
    engine: AsyncEngine,
) -> None:
    """The first thousand rows of a statement are looked up in another way than the others."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, 3001)])
    warnings: list[str] = []
    async with RowWatcher(engine, mode="listen", recheck=None) as watcher:
        for key in (1, 999, 1000, 1001, 2500):
            wait = await armed_wait(watcher, Order, key)
            before = watcher.statistics().notifications
            async with engine.begin() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                driver.add_log_listener(lambda _, message: warnings.append(str(message)))
                await connection.execute(text("UPDATE orders SET n = n + 1"))
            await wait
            assert watcher.statistics().notifications == before + 1
            assert warnings == []


async def test_a_raised_flag_waits_for_a_session_that_raises_another(
    orders: AsyncEngine, database: URL
) -> None:
    """Else it could be overwritten by the value that the other has read before."""
    async with (
        connected(database) as first,
        connected(database) as second,
        connected(database) as observer,
    ):
        await second.execute("SELECT rowbell.open_listener()")
        async with first.transaction():
            await first.execute("INSERT INTO rowbell.listener VALUES (0, 0, NULL, 0, 0)")
            other = asyncio.create_task(register(second, "items", 1))
            await blocked(orders)
            assert await observer.fetchval("SELECT last_value FROM rowbell.table_flags") == 0
            await first.execute("DELETE FROM rowbell.listener WHERE number = 0")
        await other
        assert await observer.fetchval("SELECT last_value FROM rowbell.table_flags") > 0


async def test_the_table_of_registrations_stays_small_while_an_old_transaction_keeps_dead_rows(
    orders: AsyncEngine,
) -> None:
    """A wait that was registered before is woken afterwards."""
    size = text("SELECT pg_total_relation_size('rowbell.registration')")
    churn = text(
        "INSERT INTO rowbell.registration SELECT 1, i, 1 FROM generate_series(1, 20000) AS i"
    )
    autocommit = orders.execution_options(isolation_level="AUTOCOMMIT")
    frozen = orders.execution_options(isolation_level="REPEATABLE READ")
    async with (
        frozen.connect() as old,
        autocommit.connect() as other,
        RowWatcher(orders, mode="listen", recheck=None, timing=Timing(heartbeat=1000)) as watcher,
    ):
        await old.execute(text("SELECT n FROM orders"))
        wait = await armed_wait(watcher)
        for _ in range(4):
            await other.execute(churn)
            await other.execute(text("DELETE FROM rowbell.registration WHERE table_oid = 1"))
        await other.execute(text("VACUUM rowbell.registration"))
        assert (await other.scalar(size) or 0) > COMPACT_BEYOND
        async with orders.begin() as busy:
            # One slow writer must not make the others wait, so nothing is compacted.
            await busy.execute(update(Order).where(Order.id == 2).values(n=1))
            await other.execute(text("SELECT rowbell.compact()"))
            assert (await other.scalar(size) or 0) > COMPACT_BEYOND
        await other.execute(text("SELECT rowbell.compact()"))
        assert (await other.scalar(size) or 0) < 100_000
        await other.execute(update(Order).values(n=7))
        assert (await wait).n == 7


@pytest.mark.fault("B28")
@pytest.mark.parametrize(
    "sabotage",
    [
        "DROP TABLE rowbell.registration",
        "DROP FUNCTION rowbell.notify",
        "DROP SEQUENCE rowbell.table_flags",
        "DROP MATERIALIZED VIEW rowbell.channel_secret",
        "ALTER SCHEMA rowbell RENAME TO another",
        "ALTER TABLE orders RENAME COLUMN id TO number",
    ],
)
async def test_a_writer_never_fails_because_of_us(engine: AsyncEngine, sabotage: str) -> None:
    """If any of rowbell's objects is broken, the write commits, with a WARNING."""
    warnings: list[str] = []
    async with engine.connect() as connection:
        await connection.execute(insert(Order).values(id=1))
        await _register_everything(connection)
        await connection.execute(text(sabotage))
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_log_listener(lambda _, message: warnings.append(str(message)))
        await connection.execute(text("UPDATE orders SET n = 1"))
        await connection.commit()
        assert await connection.scalar(text("SELECT n FROM orders")) == 1
        await connection.rollback()
        while not warnings:
            await connection.execute(text("SELECT 1"))
    assert "rowbell" in warnings[0]


async def _register_everything(connection: AsyncConnection) -> None:
    await connection.execute(text(f"SELECT setval('rowbell.table_flags', {2**62 - 1})"))
    await connection.execute(
        text(
            "INSERT INTO rowbell.registration SELECT 'orders'::regclass,"
            " hash_record_extended(ROW(id), 0), 1 FROM orders"
        )
    )


@pytest.mark.fault("B20")
async def test_a_statement_that_changes_very_many_watched_rows_is_one_notification(
    engine: AsyncEngine,
) -> None:
    """Payloads list the keys up to a limit. Beyond a thousand they name only the table."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, 6001)])
        await _register_everything(connection)
    heard: list[str] = []
    listener = create_async_engine(engine.url, poolclass=NullPool)
    async with listener.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        channel = await connection.scalar(text("SELECT rowbell.channel(1)"))
        await connection.rollback()
        await driver.add_listener(channel, lambda *event: heard.append(event[3]))
        for limit in (300, 900, 6000):
            heard.clear()
            await execute(engine, f"UPDATE orders SET n = n + 1 WHERE id <= {limit}")
            await driver.fetch("SELECT 1")
            if limit < 6000:
                assert len(heard) == -(-limit // 350)
                keys = {key for payload in heard for key in payload.split(":")[2].split(",")}
                assert len(keys) == limit
            else:
                assert [payload.split(":")[2] for payload in heard] == ["*"]
    await listener.dispose()


async def test_replicated_changes_notify_where_the_model_says_so(engine: AsyncEngine) -> None:
    """An apply worker runs with ``session_replication_role = replica``."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched(replicated=True)
    class Replicated(Base):
        __tablename__ = "replicated"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Replicated).values(id=1, n=0))
    assert await states(engine, Replicated) == [TriggerState.INSTALLED]
    row = await woken(
        engine,
        Replicated,
        1,
        "SET LOCAL session_replication_role = replica",
        "UPDATE replicated SET n = 1",
    )
    assert row.n == 1
