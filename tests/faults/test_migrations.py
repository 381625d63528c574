"""The database is migrated while waits are running. The waits go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL, Text, insert, text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, undefer

import rowbell
from rowbell import Reason, RowWatcher, install_triggers
from support.catalogue import due, seen
from support.models import Order
from support.observed import KILL_ALL, execute
from support.orders import CHANGE, change
from support.roles import Warned, connected
from support.waits import IMPATIENT, QUICK, armed, armed_wait, run


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Parcel(Base):
    """A table. Its types change while waits for its rows are running."""

    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(ENUM("new", "done", name="parcel_state"))
    amount: Mapped[int] = mapped_column(default=1)
    size: Mapped[Any] = mapped_column(Text, default=None, nullable=True)


MIGRATIONS = {
    "a type is altered": ["ALTER TABLE parcels ALTER amount TYPE bigint"],
    "a column is added": ["ALTER TABLE parcels ADD extra text DEFAULT 'x'"],
    "an enum is replaced": [
        "ALTER TYPE parcel_state RENAME TO old_state",
        "CREATE TYPE parcel_state AS ENUM ('new', 'done', 'more')",
        "ALTER TABLE parcels ALTER state TYPE parcel_state USING state::text::parcel_state",
        "DROP TYPE old_state",
    ],
    "a table is replaced": [
        "CREATE TABLE others (LIKE parcels INCLUDING ALL)",
        "INSERT INTO others SELECT * FROM parcels",
        "DROP TABLE parcels CASCADE",
        "ALTER TABLE others RENAME TO parcels",
    ],
}


@pytest.fixture
async def parcels(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Parcel), [{"id": i, "state": "new"} for i in (1, 2, 3)])
    return engine


async def _read_often(watcher: RowWatcher, queries: int) -> None:
    await watcher.reached(lambda now: now.queries > queries)


@pytest.mark.parametrize("mode", ["auto", "poll"])
@pytest.mark.parametrize("migration", MIGRATIONS.values(), ids=MIGRATIONS)
async def test_a_migration_under_a_wait_ends_none(
    parcels: AsyncEngine, database: URL, migration: list[str], mode: str
) -> None:
    """The prepared statements and types that connections have cached are no longer valid."""
    waits: dict[str, Any] = {
        "changed": {},
        "until, on the server": {"until": Parcel.state == "done"},
        "until, here": {"until": lambda parcel: parcel.state == "done"},
        "since": {"since": {"state": "new"}},
    }
    async with RowWatcher(parcels, mode=mode, timing=QUICK) as watcher:
        for key in (1, 2):  # the second time, everything is cached
            so_far = watcher.statistics().queries
            tasks = [
                asyncio.create_task(
                    watcher.wait_for_change(Parcel, key, interval=0.05, timeout=30, **more)
                )
                for more in waits.values()
            ]
            if mode == "auto":
                await watcher.reached(lambda now: now.armed == len(waits))
            else:  # each has its baseline
                await _read_often(watcher, so_far + 10)
            if key == 2:
                await execute(database, *migration)
            await execute(database, f"UPDATE parcels SET state = 'done' WHERE id = {key}")
            assert [(await task).state for task in tasks] == ["done"] * len(waits)


async def test_a_connection_that_is_broken_for_good_leaves_the_pool(
    parcels: AsyncEngine, database: URL
) -> None:
    """After the migration the waits work, and so do the application's next queries."""
    async with RowWatcher(parcels, mode="poll") as watcher:
        wait = asyncio.create_task(
            watcher.wait_for_change(
                Parcel, 1, until=Parcel.state == "done", interval=0.02, timeout=30
            )
        )
        await watcher.reached(lambda now: now.queries > 3)
        await execute(database, *MIGRATIONS["an enum is replaced"])
        await execute(database, "UPDATE parcels SET state = 'done' WHERE id = 1")
        await wait
        for _ in range(3):
            await watcher.wait_for_change(Parcel, 1, until=Parcel.state == "done", timeout=5)


@pytest.mark.parametrize("held", [True, False], ids=["row held", "row not held"])
@pytest.mark.parametrize("broken", ["all connections are killed", "an enum is replaced"])
async def test_the_session_gets_its_row_though_its_connection_is_broken(
    parcels: AsyncEngine, database: URL, broken: str, held: bool
) -> None:
    """Its pending changes, in that row and in others, are kept."""
    async with parcels.connect() as one, parcels.connect() as two:
        for each in (one, two):  # two idle connections that have cached the old type
            async with AsyncSession(each) as session:
                await session.get(Parcel, 1)
    async with RowWatcher(parcels, recheck=None, timing=QUICK) as watcher:
        async with AsyncSession(parcels, expire_on_commit=False) as session:
            parcel = await session.get_one(Parcel, 1)
            await session.rollback()  # expires the instance
            if held:
                parcel.size = "mine"
            else:
                session.expunge(parcel)
            session.add(Parcel(id=9, state="new"))
            with session.no_autoflush:
                wait = await armed_wait(watcher, session, Parcel, 1, options=[undefer(Parcel.size)])
                if broken == "an enum is replaced":
                    await execute(database, *MIGRATIONS[broken])
                else:
                    await execute(database, KILL_ALL)
                await execute(database, "UPDATE parcels SET state = 'done'")
                found = await wait
            assert (found.state, found.size) == ("done", "mine" if held else None)
            assert (found is parcel) is held
            await session.commit()
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT state::text FROM parcels WHERE id = 9") == "new"


@rowbell.watched(for_each="row")
class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


async def test_writers_that_knew_the_keys_old_type_notify_without_a_warning(
    parcels: AsyncEngine, database: URL
) -> None:
    """A session compiled the trigger before the key's type changed. It still wakes the waits."""
    await execute(database, "INSERT INTO tickets VALUES (1, 0), (2, 0)")
    async with connected(database) as writer, armed(parcels, Ticket, 1) as (watcher, wait):
        for _ in range(7):  # PL/pgSQL may keep a plan from the sixth execution on
            await writer.execute("UPDATE tickets SET n = n + 1 WHERE id = 2")
        await execute(database, "ALTER TABLE tickets ALTER id TYPE bigint")
        await watcher.reached(lambda now: now.armed == 1)
        async with Warned(writer) as warned:
            await writer.execute("UPDATE tickets SET n = n + 1 WHERE id = 2")
            await writer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await writer.execute("UPDATE tickets SET n = n + 1 WHERE id = 2")
            await writer.execute("COMMIT")
            await writer.execute("UPDATE tickets SET n = n + 1 WHERE id = 1")
        assert (await wait).n == 1
        assert warned.messages == []


@pytest.mark.fault("B29")
async def test_a_dropped_trigger_is_noticed_and_its_return_too(
    orders: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    async with RowWatcher(orders, recheck=None, timing=IMPATIENT) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        await execute(database, "DROP TRIGGER rowbell_update ON orders")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        await change(orders)
        assert (await seen(wait)).n == 1
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        await run(orders, install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1 and now.reason is None)
        await change(orders)
        assert (await seen(wait)).n == 2
    assert "table orders" in caplog.text


@pytest.mark.fault("B46")
async def test_the_schema_goes_under_a_wait_and_comes_back(
    orders: AsyncEngine, database: URL
) -> None:
    """The schema is dropped along with a change. The wait is polled, then armed by a migration."""
    async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.begin() as connection:
            await connection.execute(text("DROP SCHEMA rowbell CASCADE"))
            await connection.execute(text(CHANGE))
        due()
        await seen(wait)
        await watcher.reached(lambda now: now.reason is Reason.NOT_INSTALLED)
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=60))
        await run(orders, rowbell.install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, CHANGE)
        await seen(wait)
