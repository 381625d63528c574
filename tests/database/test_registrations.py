"""A registration stays, or its loss is noticed, whatever happens to tables and triggers."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import Reason, RowWatcher, Timing, TriggerState, install_triggers, remove_triggers
from support.models import Order
from support.roles import Isolation, Warned, connected, role
from support.waits import QUICK, armed, armed_wait, run, state_of

SLOW = Timing(heartbeat=2, narrow=0.1)  # the announcement is handled earlier


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Parted(Base):
    __tablename__ = "parted"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


DELETIONS = [
    "TRUNCATE rowbell.registration",
    "DELETE FROM rowbell.registration",
    "TRUNCATE rowbell.listener",
    "TRUNCATE rowbell.registration, rowbell.listener",
    "DELETE FROM rowbell.registration WHERE key_hash = hash_record_extended(ROW(1), 0)",
    ("UPDATE rowbell.registration SET key_hash = key_hash + 1"),
    "REFRESH MATERIALIZED VIEW rowbell.channel_secret",
]


@pytest.mark.parametrize("deletion", DELETIONS)
async def test_a_registration_that_somebody_takes_away_is_missed_at_the_next_heartbeat(
    orders: AsyncEngine, database: URL, deletion: str
) -> None:
    async with armed(orders, Order, 1, 2) as (watcher, waits), connected(database) as owner:
        async with owner.transaction():
            await owner.execute(deletion)
            await owner.execute("UPDATE orders SET n = 1")
        assert [(await wait).n for wait in waits] == [1, 1]
        await watcher.reached(lambda now: now.reconnects >= 1)
        # Notifications work again afterwards.
        wait = await armed_wait(watcher, Order, 3)
        await owner.execute("UPDATE orders SET n = 2")
        assert (await wait).n == 2


async def test_an_old_list_of_sessions_deletes_nothing_of_a_listener_that_is_alive(
    orders: AsyncEngine, database: URL
) -> None:
    """PostgreSQL caches the list of sessions during a transaction."""
    async with role(database) as stranger, connected(stranger) as mallory:
        transaction = mallory.transaction(isolation="repeatable_read")
        await transaction.start()
        await mallory.fetch("SELECT count(*) FROM pg_stat_activity")
        async with (
            armed(orders, timing=Timing(heartbeat=60)) as (_, wait),
            connected(database) as owner,
        ):
            await mallory.execute("SELECT rowbell.delete_stale()")
            await transaction.commit()
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1


@pytest.mark.fault("B40")
async def test_registrations_of_a_killed_listener_are_deleted_by_the_next(
    orders: AsyncEngine, database: URL
) -> None:
    """Rows from a restored dump are deleted as well."""
    async with connected(database) as owner:
        await owner.execute(
            "INSERT INTO rowbell.listener VALUES (7, 1, now(), 10, 1);"
            "INSERT INTO rowbell.registration VALUES (1, 1, 7), (1, 2, 8)"
        )
        async with RowWatcher(orders, mode="listen", timing=QUICK):
            left = "SELECT count(*) FROM rowbell.registration"
            assert await owner.fetchval(left) == 0
            assert await owner.fetchval("SELECT count(*) FROM rowbell.listener") == 1
        assert await owner.fetchval("SELECT count(*) FROM rowbell.listener") == 0
        flag = "SELECT last_value FROM rowbell.table_flags"
        assert await owner.fetchval(flag) == 0


async def test_a_table_that_another_takes_the_name_of_is_noticed(
    orders: AsyncEngine, database: URL
) -> None:
    """A copy of the table takes its name. The copy gets triggers before that, or later."""
    async with (
        RowWatcher(orders, recheck=None, timing=QUICK) as watcher,
        connected(database) as owner,
    ):
        wait = await armed_wait(watcher, until=Order.n == 2)
        async with owner.transaction():
            await owner.execute("CREATE TABLE fresh (LIKE orders INCLUDING ALL)")
            await owner.execute("INSERT INTO fresh SELECT * FROM orders")
            await owner.execute("ALTER TABLE orders RENAME TO old")
            await owner.execute("ALTER TABLE fresh RENAME TO orders")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        async with orders.begin() as connection:
            await connection.run_sync(install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1)
        async with owner.transaction():  # swap back; both have triggers
            await owner.execute("ALTER TABLE orders RENAME TO newer")
            await owner.execute("ALTER TABLE old RENAME TO orders")
        await owner.execute("UPDATE orders SET n = 2")
        assert (await wait).n == 2


async def test_a_table_that_comes_earlier_in_the_search_path_is_noticed(
    orders: AsyncEngine, database: URL
) -> None:
    engine = create_async_engine(
        database, connect_args={"server_settings": {"search_path": "later, public"}}
    )
    async with (
        RowWatcher(engine, recheck=None, timing=QUICK) as watcher,
        connected(database) as owner,
    ):
        wait = await armed_wait(watcher)
        await owner.execute("CREATE SCHEMA later")
        await owner.execute("CREATE TABLE later.orders (LIKE public.orders INCLUDING ALL)")
        await owner.execute("INSERT INTO later.orders SELECT * FROM public.orders")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        await owner.execute("UPDATE later.orders SET n = 1")
        async with engine.begin() as connection:
            await connection.run_sync(install_triggers, Order)
        assert (await wait).n == 1
    await engine.dispose()


@pytest.mark.fault("B29")
@pytest.mark.parametrize("timing", [QUICK, SLOW], ids=["by the heartbeat", "by the announcement"])
async def test_a_change_between_dropping_and_creating_triggers_is_not_lost(
    orders: AsyncEngine, database: URL, timing: Timing
) -> None:
    """All is in one transaction, so no heartbeat sees a table without triggers."""
    async with (
        armed(orders, timing=timing) as (watcher, wait),
        connected(database) as owner,
    ):
        async with orders.begin() as connection:
            if timing is SLOW:
                await connection.run_sync(remove_triggers, Order)
                await connection.execute(text("UPDATE orders SET n = 1"))
                await connection.run_sync(install_triggers, Order)
            else:
                definition = await connection.scalar(
                    text(
                        "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
                        " WHERE tgname = 'rowbell_update' AND tgrelid = 'orders'::regclass"
                    )
                )
                await connection.execute(text("DROP TRIGGER rowbell_update ON orders"))
                await connection.execute(text("UPDATE orders SET n = 1"))
                await connection.exec_driver_sql(str(definition))
        assert (await wait).n == 1
        again = await armed_wait(watcher)
        await owner.execute("UPDATE orders SET n = 2")
        assert (await again).n == 2


@pytest.mark.fault("B29")
async def test_a_change_while_a_trigger_was_disabled_between_two_heartbeats_is_not_lost(
    orders: AsyncEngine, database: URL
) -> None:
    async with armed(orders) as (_, wait), connected(database) as owner:
        async with owner.transaction():
            await owner.execute("ALTER TABLE orders DISABLE TRIGGER rowbell_update")
            await owner.execute("UPDATE orders SET n = 1")
            await owner.execute("ALTER TABLE orders ENABLE TRIGGER rowbell_update")
        assert (await wait).n == 1


@pytest.mark.parametrize(
    "ddl",
    [
        "TRUNCATE parted_0",
        "ALTER TABLE parted DETACH PARTITION parted_0",
        "DROP TABLE parted_0",
        "ALTER TABLE parted ALTER COLUMN n TYPE int USING n + 5",
    ],
)
async def test_ddl_that_fires_no_trigger_is_noticed_by_the_heartbeat(
    engine: AsyncEngine, database: URL, ddl: str
) -> None:
    async with connected(database) as owner:
        await owner.execute(
            "CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);"
            "CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (0) TO (10);"
            "INSERT INTO parted VALUES (1, 0)"
        )
        async with engine.begin() as connection:
            await connection.run_sync(install_triggers, Parted)
        async with armed(engine, Parted) as (_, wait):
            await owner.execute(ddl)
            if "USING" in ddl:
                assert (await wait).n == 5
            else:
                with pytest.raises(rowbell.NotFoundError, match="was deleted"):
                    await wait


REDEFINED = [
    (
        "ALTER TABLE orders RENAME n TO x; ALTER TABLE orders RENAME total TO n;"
        " ALTER TABLE orders RENAME x TO total"
    ),
    "ALTER TABLE orders DROP COLUMN n; ALTER TABLE orders ADD COLUMN n int NOT NULL DEFAULT 7",
]


@pytest.mark.parametrize("ddl", REDEFINED, ids=["swapped", "made anew"])
async def test_replaced_columns_are_noticed_by_the_heartbeat(
    orders: AsyncEngine, database: URL, ddl: str
) -> None:
    async with connected(database) as owner:
        await owner.execute("ALTER TABLE orders ADD COLUMN total int NOT NULL DEFAULT 7")
        async with armed(orders) as (_, wait):
            await owner.execute(ddl)
            assert (await wait).n == 7


async def test_declared_columns_that_were_renamed_are_polled_and_mended_by_installing(
    engine: AsyncEngine, database: URL
) -> None:
    """The ``WHEN`` clause still compares the old column, under its new name."""

    class Own(DeclarativeBase):
        pass

    @rowbell.watched(columns=["n"])
    class Declared(Own):
        __tablename__ = "declared"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    async with engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
        await connection.execute(insert(Declared).values(id=1, n=0))
    async with (
        RowWatcher(engine, recheck=None, timing=QUICK) as watcher,
        connected(database) as owner,
    ):
        wait = await armed_wait(watcher, Declared, 1, until=Declared.n == 2)
        await owner.execute("ALTER TABLE declared RENAME n TO former")
        await owner.execute("ALTER TABLE declared ADD COLUMN n int NOT NULL DEFAULT 0")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_OUTDATED)
        assert await state_of(engine, Declared) is TriggerState.OUTDATED
        assert await run(engine, install_triggers, Declared)
        assert await state_of(engine, Declared) is TriggerState.INSTALLED
        await watcher.reached(lambda now: now.armed == 1)
        await owner.execute("UPDATE declared SET n = 2")
        assert (await wait).n == 2


@pytest.mark.parametrize(
    ("before", "ddl"),
    [
        (
            "CREATE TABLE whole (LIKE orders INCLUDING ALL) PARTITION BY RANGE (id)",
            "ALTER TABLE whole ATTACH PARTITION orders DEFAULT",
        ),
        ("CREATE TABLE parent (LIKE orders)", "ALTER TABLE orders INHERIT parent"),
        ("SELECT 1", "CREATE TABLE child () INHERITS (orders)"),
    ],
    ids=["a partition", "a child", "a parent"],
)
async def test_a_table_that_is_written_through_another_is_polled_with_the_reason(
    orders: AsyncEngine, database: URL, before: str, ddl: str
) -> None:
    async with (
        RowWatcher(orders, recheck=None, timing=QUICK) as watcher,
        connected(database) as owner,
    ):
        await owner.execute("ALTER TABLE items DROP CONSTRAINT items_order_id_fkey")
        await owner.execute(before)
        wait = await armed_wait(watcher, interval=0.05)
        await owner.execute(ddl)
        await watcher.reached(lambda now: now.reason is Reason.INHERITANCE)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_a_truncate_causes_no_warning(
    orders: AsyncEngine, database: URL, isolation: Isolation
) -> None:
    async with armed(orders) as (_, wait), connected(database) as owner, Warned(owner) as warned:
        async with owner.transaction(isolation=isolation):
            await owner.execute("TRUNCATE orders CASCADE")
        with pytest.raises(rowbell.NotFoundError, match="was deleted"):
            await wait
    assert warned.messages == []
