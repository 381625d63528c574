"""Locks on rowbell's objects do not stop writers. Listeners recover afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import RowWatcher, WatcherState, install_triggers, remove_triggers
from support.models import Order
from support.roles import Isolation, Warned, connected, register, role
from support.waits import HOUR, QUICK, armed, armed_wait

ROWS = 2_000


class Base(DeclarativeBase):
    pass


@rowbell.watched(for_each="row")
class ByRow(Base):
    __tablename__ = "by_row"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


@rowbell.watched(columns=["n"])
class Declared(Base):
    __tablename__ = "declared"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


@pytest.fixture
async def tables(orders: AsyncEngine) -> AsyncEngine:
    """The orders, and two tables with the other forms of triggers."""
    async with orders.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for table in ("by_row", "declared"):
            await connection.execute(
                text(f"INSERT INTO {table} SELECT i, 0 FROM generate_series(1, {ROWS}) AS i")
            )
    return orders


LOCKS = [
    "LOCK TABLE rowbell.registration IN ACCESS EXCLUSIVE MODE",
    "LOCK TABLE rowbell.listener IN ACCESS EXCLUSIVE MODE",
    "ALTER SEQUENCE rowbell.table_flags CACHE 2",
    "ALTER SEQUENCE rowbell.unsent_notifications CACHE 2",
    "REFRESH MATERIALIZED VIEW rowbell.channel_secret",
    "ALTER TABLE rowbell.registration ADD COLUMN mine int",
    "DROP FUNCTION rowbell.notify",
    "ALTER SCHEMA rowbell RENAME TO another",
]


@pytest.mark.parametrize("lock", LOCKS)
async def test_no_lock_on_our_objects_holds_a_writer_up(
    tables: AsyncEngine, database: URL, lock: str
) -> None:
    """Each form of trigger waits once and warns once, also for thousands of rows."""
    async with (
        RowWatcher(tables, recheck=None, timing=QUICK) as watcher,
        connected(database) as holder,
        connected(database) as writer,
    ):
        waits = [
            asyncio.create_task(watcher.wait_for_change(model, 1, interval=HOUR))
            for model in (Order, ByRow, Declared)
        ]
        await watcher.reached(lambda now: now.armed == 3)
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(lock)
        isolations: list[Isolation] = ["read_committed", "repeatable_read"]
        for table in ("orders", "by_row", "declared"):
            for isolation in isolations:
                async with Warned(writer) as warned, asyncio.timeout(10):
                    async with writer.transaction(isolation=isolation):
                        await writer.execute(f"UPDATE {table} SET n = n + 1")
                        await writer.execute(f"UPDATE {table} SET n = n + 1")
                assert len(warned.messages) <= 1
        await transaction.rollback()
        found: list[Any] = [await wait for wait in waits]
        assert {row.n for row in found} <= {2, 4}


async def test_calls_of_a_stranger_in_an_open_transaction_hold_up_no_listener(
    orders: AsyncEngine, database: URL
) -> None:
    """It calls each public function. During that, a listener starts, arms a wait and wakes it."""
    calls = [
        "SELECT rowbell.open_listener()",
        "SELECT rowbell.delete_stale()",
        "SELECT rowbell.lower_flags()",
        "SELECT rowbell.heartbeat('{}', '{}', '{}')",
        "SELECT rowbell.unregister('{}', '{}')",
        "SELECT rowbell.notify('orders'::regclass, ARRAY[1], ARRAY[1])",
        "SELECT rowbell.tables_without_writers('{}', 1)",
        "SELECT nextval('rowbell.unsent_notifications')",
        "SELECT rowbell.close_listener()",
        "SELECT rowbell.lower_flags()",
    ]
    async with (
        role(database, "GRANT SELECT ON orders TO {role}") as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
    ):
        async with RowWatcher(orders, timing=QUICK) as gone:
            stale = await armed_wait(gone, Order, 2)
            await owner.execute(  # its registrations become stale
                "SELECT pg_terminate_backend(backend_pid, 5000) FROM rowbell.listener"
            )
            stale.cancel()
            await asyncio.wait([stale])
        transaction = mallory.transaction()
        await transaction.start()
        for call in calls:
            await mallory.execute(call)
            if "open_listener" in call:
                assert await register(mallory, "orders", 3) is None
        locks = await owner.fetch(
            "SELECT l.relation::regclass::text, l.mode FROM pg_locks AS l"
            " JOIN pg_class AS c ON c.oid = l.relation WHERE l.pid = $1"
            " AND c.relnamespace = 'rowbell'::regnamespace",
            mallory.get_server_pid(),
        )
        allowed = {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
        assert {row["mode"] for row in locks} <= allowed
        async with asyncio.timeout(10):
            async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
                wait = await armed_wait(watcher)
                await owner.execute("UPDATE orders SET n = 1")
                assert (await wait).n == 1
        await transaction.rollback()


@pytest.mark.fault("B3")
async def test_a_listener_that_waits_for_a_lock_leaves_no_server_process_behind(
    orders: AsyncEngine, database: URL
) -> None:
    """The server's timeout is shorter than the client's, at every try."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND application_name LIKE 'rowbell%'"
    )
    async with (
        RowWatcher(orders, timing=QUICK) as watcher,
        connected(database) as holder,
        connected(database) as observer,
    ):
        async with holder.transaction():
            await holder.execute("LOCK TABLE rowbell.listener IN ACCESS EXCLUSIVE MODE")
            await watcher.reached(lambda now: now.state is WatcherState.POLLING)
            most, seen = 0, 0
            while seen < 2:  # two more tries that wait
                found = await observer.fetchval(waiting)
                most, seen = max(most, found), seen + (found == 1)
                while found and await observer.fetchval(waiting):
                    await asyncio.sleep(0.01)  # the server does not announce the end of a wait
            assert most == 1
        await watcher.reached(lambda now: now.state is WatcherState.LISTENING)


@pytest.mark.fault("B19")
async def test_mending_the_schema_holds_no_writer_up(orders: AsyncEngine, database: URL) -> None:
    """An upgrade replaces functions and rights while writers run. No writer falls back."""
    async with (
        connected(database) as owner,
        connected(database) as writer,
        armed(orders) as (_, wait),
    ):
        await owner.execute("ALTER FUNCTION rowbell.notify COST 7")
        await owner.execute("ALTER FUNCTION rowbell.notify RESET search_path")
        await owner.execute("REVOKE ALL ON rowbell.registration FROM PUBLIC")
        await owner.execute("GRANT SELECT ON rowbell.registration TO PUBLIC")
        async with orders.begin() as installer, Warned(writer) as warned:
            executed = await installer.run_sync(install_triggers, Order)
            assert any("FUNCTION rowbell.notify" in statement for statement in executed)
            async with asyncio.timeout(5):
                await writer.execute("UPDATE orders SET n = 1 WHERE id = 2")
        assert warned.messages == []
        await owner.execute("UPDATE orders SET n = 1 WHERE id = 1")
        assert (await wait).n == 1


@pytest.mark.fault("B19")
async def test_installing_and_removing_under_traffic_causes_no_deadlock(
    engine: AsyncEngine, database: URL
) -> None:
    """The table is partitioned: applications lock it before its partitions."""

    class Own(DeclarativeBase):
        pass

    @rowbell.watched
    class Parted(Own):
        __tablename__ = "parted"
        __table_args__ = {"postgresql_partition_by": "HASH (id)"}
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    async with connected(database) as owner:
        await owner.execute(
            "CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY HASH (id)"
        )
        for i in range(4):
            await owner.execute(
                f"CREATE TABLE parted_{i} PARTITION OF parted"
                f" FOR VALUES WITH (MODULUS 4, REMAINDER {i})"
            )
        await owner.execute("INSERT INTO parted SELECT i, 0 FROM generate_series(1, 100) AS i")
    stopped = asyncio.Event()

    async def traffic(number: int) -> int:
        statements = 0
        async with connected(database) as connection:
            while not stopped.is_set():
                if number % 2:
                    await connection.fetch("SELECT * FROM parted WHERE n >= 0")
                else:
                    keys = [number * 7 + 1, number * 7 + 2]
                    await connection.execute(
                        "UPDATE parted SET n = n + 1 WHERE id = ANY ($1::int[])", keys
                    )
                statements += 1
        return statements

    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(traffic(number)) for number in range(6)]
        for _ in range(12):
            for function in (install_triggers, remove_triggers):
                async with engine.begin() as connection:
                    await connection.run_sync(function, Parted)
        stopped.set()
    assert all(worker.result() > 0 for worker in workers)


async def test_a_counter_that_is_locked_costs_a_muted_writer_a_warning_and_no_failure(
    orders: AsyncEngine, database: URL
) -> None:
    """The notification is neither sent nor counted. The read at ``recheck`` finds the change."""
    async with (
        RowWatcher(orders, recheck=1, timing=QUICK) as watcher,
        connected(database) as holder,
        connected(database) as writer,
    ):
        wait = await armed_wait(watcher)
        async with holder.transaction():
            await holder.execute("ALTER SEQUENCE rowbell.unsent_notifications CACHE 3")
            async with Warned(writer) as warned, asyncio.timeout(5):
                async with writer.transaction():
                    await writer.execute("SET LOCAL rowbell.notify = off")
                    for _ in range(50):
                        await writer.execute("UPDATE orders SET n = n + 1 WHERE id = 1")
            assert len(warned.messages) == 1
        assert (await wait).n == 50


@pytest.mark.parametrize("value", ["on", "banana", ""])
async def test_a_session_that_sets_our_settings_disturbs_no_notification(
    orders: AsyncEngine, database: URL, value: str
) -> None:
    engine = create_async_engine(database)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        async with connected(database) as writer, Warned(writer) as warned:
            for name in ("notify", "fallback", "uncounted", "warned", "keys_sent"):
                await writer.execute(f"SET rowbell.{name} = '{value}'")
            for n in (1, 2):
                wait = await armed_wait(watcher)
                await writer.execute(f"UPDATE orders SET n = {n} WHERE id = 1")
                assert (await wait).n == n
        assert warned.messages == []
    await engine.dispose()
