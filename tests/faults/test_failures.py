"""Whose error it is: what passes is waited out, what is stale asked anew, the rest blamed right."""

from __future__ import annotations

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import asyncpg
import pytest
from sqlalchemy import (
    URL,
    ColumnElement,
    Dialect,
    Text,
    TypeDecorator,
    insert,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ENUM, TSVECTOR
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, undefer
from sqlalchemy.pool import NullPool

import rowbell
from rowbell import (
    Reason,
    RowWatcher,
    Timing,
    TriggerError,
    WatcherState,
    WatcherStateError,
)
from rowbell._mapping import tables_of
from rowbell.embedded import EmbeddedServer
from support.models import Order, Plain
from support.observed import blocked, execute
from support.roles import Warned, connected, role
from support.waits import QUICK, armed, armed_wait, run


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Parcel(Base):
    """Its types are changed under those who wait for it."""

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

KILLED = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND datname = current_database() AND application_name NOT LIKE 'rowbell%'"
)


@pytest.fixture
async def parcels(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Parcel), [{"id": i, "state": "new"} for i in (1, 2, 3)])
    return engine


@pytest.mark.parametrize("mode", ["auto", "poll"])
@pytest.mark.parametrize("migration", MIGRATIONS.values(), ids=MIGRATIONS)
async def test_a_migration_under_a_wait_ends_none(
    parcels: AsyncEngine, database: URL, migration: list[str], mode: str
) -> None:
    """Prepared statements and types that connections remember are gone; the waits go on."""
    waits: dict[str, Any] = {
        "changed": {},
        "until, on the server": {"until": Parcel.state == "done"},
        "until, here": {"until": lambda parcel: parcel.state == "done"},
        "since": {"since": {"state": "new"}},
    }
    async with RowWatcher(parcels, mode=mode, timing=QUICK) as watcher:
        for key in (1, 2):  # the second time everything is in some cache
            tasks = [
                asyncio.create_task(
                    watcher.wait_for_change(Parcel, key, interval=0.05, timeout=30, **more)
                )
                for more in waits.values()
            ]
            await watcher.reached(
                lambda now: now.armed == len(waits) if mode == "auto" else now.queries > 10
            )
            if key == 2:
                await execute(database, *migration)
            await execute(database, f"UPDATE parcels SET state = 'done' WHERE id = {key}")
            assert [(await task).state for task in tasks] == ["done"] * len(waits)


async def test_a_connection_that_is_broken_for_good_leaves_the_pool(
    parcels: AsyncEngine, database: URL
) -> None:
    """After the migration the waits work, and so does what the application asks after them."""
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
    """What it has pending, in that row and besides, is kept."""
    async with parcels.connect() as one, parcels.connect() as two:
        for each in (one, two):  # two that lie idle, and know the type as it was
            async with AsyncSession(each) as session:
                await session.get(Parcel, 1)
    async with RowWatcher(parcels, recheck=None, timing=QUICK) as watcher:
        async with AsyncSession(parcels, expire_on_commit=False) as session:
            parcel = await session.get_one(Parcel, 1)
            await session.rollback()  # which expires it
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
                    await execute(database, KILLED)
                await execute(database, "UPDATE parcels SET state = 'done'")
                found = await wait
            assert (found.state, found.size) == ("done", "mine" if held else None)
            assert (found is parcel) is held
            await session.commit()
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT state::text FROM parcels WHERE id = 9") == "new"


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_what_a_timeout_of_the_server_ends_is_read_again(
    orders: AsyncEngine, database: URL, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the first read, and the question for ``since``; the log says so once."""
    impatient = create_async_engine(database, connect_args={"server_settings": {setting: "20"}})
    async with orders.connect() as locker, RowWatcher(impatient, mode="poll") as watcher:
        await locker.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.02, timeout=30))
        await watcher.reached(lambda now: now.queries > 3)
        assert not wait.done()
        await locker.rollback()
        reads = watcher.statistics().queries
        await watcher.reached(lambda now: now.queries > reads + 1)
        await locker.execute(update(Order).values(n=1))
        await locker.commit()
        assert (await wait).n == 1
    await impatient.dispose()
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [("read failed" in line, "succeed again" in line) for line in said] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("since", [None, {"n": 0}], ids=["plain", "since"])
async def test_a_wait_may_begin_while_the_server_is_down(since: Any) -> None:
    """It has a timeout. Its first read is repeated soon, however long its interval is."""
    with EmbeddedServer() as server:
        engine = create_async_engine(server.url)
        await execute(
            server.url,
            "CREATE TABLE plain (id int PRIMARY KEY, n int NOT NULL)",
            "INSERT INTO plain VALUES (1, 0)",
        )
        timing = Timing(first_read=0.05)
        async with RowWatcher(engine, mode="poll", timing=timing) as watcher:
            if since:
                await execute(server.url, "UPDATE plain SET n = 1")
            server.stop()
            interval = 3600 if since else 0.5
            wait = asyncio.create_task(
                watcher.wait_for_change(Plain, 1, since=since, interval=interval, timeout=60)
            )
            await watcher.reached(lambda now: now.failed_reads > 1)
            server.start()
            if not since:
                await watcher.reached(lambda now: now.queries > 0)
                await execute(server.url, "UPDATE plain SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()


async def test_too_many_connections_pass(orders: AsyncEngine, database: URL) -> None:
    async with role(database, "GRANT SELECT ON orders TO {role}") as url:
        mine = create_async_engine(url, poolclass=NullPool)
        async with RowWatcher(mine, mode="poll") as watcher:
            await execute(database, f"ALTER ROLE {url.username} CONNECTION LIMIT 0")
            wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.02, timeout=30))
            await watcher.reached(lambda now: now.failed_reads > 2)
            await execute(database, f"ALTER ROLE {url.username} CONNECTION LIMIT -1")
            await watcher.reached(lambda now: now.queries > 0)
            await execute(database, "UPDATE orders SET n = 1")
            assert (await wait).n == 1


async def test_who_cannot_connect_at_all_is_told_at_once(database: URL) -> None:
    """A wrong name does not pass: a wait that has never read fails, with the driver's error."""
    nowhere = create_async_engine(database.set(database="no_such_database"))
    async with RowWatcher(nowhere, mode="poll") as watcher:
        with pytest.raises((DBAPIError, asyncpg.PostgresError), match="no_such_database"):
            await watcher.wait_for_change(Order, 1)


async def test_a_dead_connection_of_the_pool_costs_a_wake_nothing(
    orders: AsyncEngine, database: URL
) -> None:
    """All connections of the pool were killed, by an idle timeout say; the next poll is far off."""
    async with armed(orders) as (_, wait):
        await execute(database, KILLED, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


DROPPED = ["ALTER TABLE orders DROP COLUMN note", "ALTER TABLE orders RENAME TO former"]


@pytest.mark.parametrize("mode", ["listen", "poll"])
@pytest.mark.parametrize("migration", DROPPED)
async def test_an_error_of_all_rows_is_asked_for_once(
    engine: AsyncEngine, database: URL, migration: str, mode: str
) -> None:
    """Five hundred waits fail, each with the error, and the server is asked a few times."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, 501)])
    small = create_async_engine(database, pool_size=1, max_overflow=0)
    async with RowWatcher(small, mode=mode, recheck=0.3, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, interval=0.3))
            for i in range(1, 501)
        ]
        await watcher.reached(lambda now: now.armed + now.polled == 500 and now.queries > 1)
        if mode == "listen":
            await watcher.reached(lambda now: now.armed == 500)
        async with small.connect():  # the application's only place in the pool is taken
            before = watcher.statistics().queries
            await execute(database, migration)
            ended = await asyncio.gather(*waits, return_exceptions=True)
            assert watcher.statistics().queries - before < 20
    assert {type(error) for error in ended} == {ProgrammingError}
    assert len({id(error) for error in ended}) == 500  # each its own traceback
    await small.dispose()


async def test_a_column_that_only_the_instances_have_is_asked_for_once(
    engine: AsyncEngine, database: URL
) -> None:
    """The watched columns can be read, what the waits return cannot be loaded."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, 301)])
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, columns=["n"], interval=60))
            for i in range(1, 301)
        ]
        await watcher.reached(lambda now: now.armed == 300)
        await execute(database, "ALTER TABLE orders DROP COLUMN note")
        before = watcher.statistics().queries
        await execute(database, "UPDATE orders SET n = 1 WHERE id <= 200")
        ended = await asyncio.gather(*waits[:200], return_exceptions=True)
        assert {type(error) for error in ended} == {ProgrammingError}
        assert watcher.statistics().queries - before < 30
        assert not any(wait.done() for wait in waits[200:])


async def test_only_those_who_ask_for_it_are_blamed(orders: AsyncEngine, database: URL) -> None:
    """A dropped column fails the waits that watch it; others of the class go on."""
    async with RowWatcher(orders, mode="poll") as watcher:
        bad, good = (
            [
                asyncio.create_task(
                    watcher.wait_for_change(
                        Order, i, columns=[column], interval=0.02, until=until, timeout=30
                    )
                )
                for i in range(1, 5)
            ]
            for column, until in (("note", None), ("n", Order.n == 1))
        )
        await watcher.reached(lambda now: now.queries > 3)
        await execute(database, "ALTER TABLE orders DROP COLUMN note")
        for error in await asyncio.gather(*bad, return_exceptions=True):
            assert isinstance(error, ProgrammingError)
        await execute(database, "ALTER TABLE orders ADD note text", "UPDATE orders SET n = 1")
        assert [order.n for order in await asyncio.gather(*good)] == [1] * 4


async def test_one_row_of_many_that_cannot_be_read_is_the_only_one_to_fail(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i, "n": i % 50} for i in range(1, 50)])
        await connection.execute(insert(Order), [{"id": 50, "n": 0}])
    ten_by_n: ColumnElement[bool] = 10 / Order.n < 0
    async with RowWatcher(engine, mode="poll") as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(Order, i, until=ten_by_n, interval=0.05, timeout=30)
            )
            for i in range(1, 51)
        ]
        with pytest.raises(DBAPIError, match="division by zero"):
            await waits[-1]
        assert not any(wait.done() for wait in waits[:-1])
        await execute(engine, update(Order).values(n=-1))
        await asyncio.gather(*waits[:-1])


# -- errors of the application's own code


def raising(error: type[BaseException]) -> Callable[[Any], object]:
    def predicate(_: object) -> object:
        raise error("mine")

    return predicate


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError, StopAsyncIteration])
async def test_what_a_predicate_raises_is_the_waits_answer(
    orders: AsyncEngine, error: type[BaseException]
) -> None:
    """Even what asyncio would take for something else; the waits beside it go on."""
    async with RowWatcher(orders) as watcher:
        beside = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=0.05, timeout=20))
        with pytest.raises((RuntimeError, StopAsyncIteration)) as raised:
            await watcher.wait_for_change(Order, 1, until=raising(error), timeout=5)
        assert isinstance(raised.value.__cause__ or raised.value, error)
        await execute(orders, update(Order).values(n=1))
        assert (await beside).n == 1


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError])
async def test_what_a_condition_on_the_statistics_raises_is_the_observers_answer(
    engine: AsyncEngine, error: type[BaseException]
) -> None:
    async with RowWatcher(engine) as watcher:
        asked = 0

        def condition(_: object) -> bool:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise error
            return False

        reached = asyncio.create_task(watcher.reached(condition))
        beside = asyncio.create_task(watcher.reached(lambda now: now.polled == 1))
        await asyncio.sleep(0)  # both ask for the first time
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
        with pytest.raises(RuntimeError, match=error.__name__):
            await reached
        await beside
        await asyncio.gather(wait, return_exceptions=True)


@pytest.mark.parametrize("of", ["the listener", "a read"])
async def test_a_hook_that_is_cancelled_costs_one_try(
    orders: AsyncEngine, database: URL, of: str
) -> None:
    """A token refresh may raise CancelledError by itself; nobody has cancelled the wait."""
    failures = 0

    async def creator() -> asyncpg.Connection[Any]:
        nonlocal failures
        if failures:
            failures -= 1
            raise asyncio.CancelledError("the token refresh was cancelled")
        dsn = database.set(drivername="postgresql").render_as_string(hide_password=False)
        return await asyncpg.connect(dsn)

    mine = create_async_engine(
        "postgresql+asyncpg://", async_creator=creator, pool_size=1, max_overflow=0
    )
    if of == "the listener":
        failures = 1
    async with RowWatcher(mine, recheck=None, timing=QUICK) as watcher:
        await watcher.reached(lambda now: now.state is WatcherState.LISTENING)
        assert failures == 0
        first = await armed_wait(watcher, interval=0.1)
        async with mine.connect():
            failures = int(of == "a read")
            second = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=0.1))
            await watcher.reached(lambda now: now.armed == 2)
        assert failures == 0
        await execute(database, "UPDATE orders SET n = 1")
        assert [(await wait).n for wait in (first, second)] == [1, 1]
    await mine.dispose()


class Cancelling(TypeDecorator[str]):
    """A type whose conversion is cancelled."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str:
        raise asyncio.CancelledError


class Cancelled(Base):
    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[str] = mapped_column(Cancelling)


async def test_a_type_that_is_cancelled_fails_its_wait(engine: AsyncEngine) -> None:
    await execute(engine, insert(Plain).values(id=1))
    async with RowWatcher(engine, mode="poll") as watcher:
        with pytest.raises(RuntimeError, match="was cancelled"):
            await watcher.wait_for_change(Cancelled, 1, until=lambda _: True, timeout=5)
        assert watcher.statistics().state is WatcherState.POLLING


@pytest.mark.parametrize("part", ["reader", "listener"])
async def test_a_task_of_ours_that_ends_closes_the_watcher(
    orders: AsyncEngine,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever ended it: the waits raise, and the log says why. Never a state that is not true."""
    watcher = RowWatcher(orders, recheck=None)
    end = asyncio.Event()

    async def run() -> None:
        await end.wait()
        raise asyncio.CancelledError

    monkeypatch.setattr(getattr(watcher, f"_{part}"), "run", run)
    watcher.start()
    wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
    await asyncio.sleep(0)
    end.set()
    with pytest.raises(WatcherStateError, match="failed"):
        await wait
    assert watcher.statistics().state is WatcherState.CLOSED
    assert "its waits end" in caplog.text
    await watcher.aclose()


# -- how much a wait takes


async def test_many_waits_for_one_row_hold_it_once(engine: AsyncEngine, database: URL) -> None:
    """A hundred waits for a row of a megabyte: it is fetched once, and woken with it once."""
    await execute(engine, insert(Order).values(id=1, note="x" * 1_000_000))
    tracemalloc.start()
    try:
        async with armed(engine, Order, *[1] * 100) as (_, waits):
            await execute(database, "UPDATE orders SET note = repeat('y', 1000000)")
            await asyncio.gather(*waits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.fault("B32")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_loop_that_was_held_up_still_reads_once_more(
    orders: AsyncEngine, database: URL, mode: str
) -> None:
    """The change was committed before the deadline, the loop came back long after it."""
    timing = Timing(last_read=0.1)
    async with RowWatcher(orders, mode=mode, timing=timing) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=60, timeout=0.4))
        await watcher.reached(lambda now: now.queries > 0)

        def change() -> None:
            asyncio.run(execute(database, "UPDATE orders SET n = 1", "SELECT pg_sleep(1)"))

        writer = threading.Thread(target=change)
        writer.start()
        writer.join()  # nothing else runs meanwhile
        assert (await wait).n == 1


# -- tables that cannot be armed


class Searchable(Base):
    __tablename__ = "searchable"
    id: Mapped[str] = mapped_column(TSVECTOR, primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


class ListedOrder(Base):
    """A view, mapped."""

    __tablename__ = "listed_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


async def test_a_key_that_cannot_be_hashed_is_polled_and_said_so(
    parcels: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(database, "INSERT INTO searchable VALUES ('a:1', 0)")
    with pytest.raises(TriggerError, match="has no hash"):
        await run(parcels, rowbell.install_triggers, Searchable)
    async with RowWatcher(parcels, timing=QUICK) as watcher:
        for n in (1, 2):
            wait = asyncio.create_task(
                watcher.wait_for_change(Searchable, "'a':1", interval=0.05, timeout=20)
            )
            await watcher.reached(lambda now: now.reason is Reason.NO_HASH)
            await watcher.reached(lambda now: now.queries > 3)
            await execute(database, f"UPDATE searchable SET n = {n}")
            assert (await wait).n == n
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


async def test_create_all_creates_a_table_whose_key_cannot_be_hashed(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Without triggers, and with a warning: its rows can be waited for all the same."""
    [table] = tables_of([rowbell.watched(Searchable)])
    async with engine.begin() as connection:
        await connection.run_sync(lambda c: Base.metadata.create_all(c, [table]))
    assert "has no hash" in caplog.text


async def test_a_view_is_not_told_to_install_triggers(engine: AsyncEngine, database: URL) -> None:
    await execute(
        database,
        "CREATE VIEW listed_orders AS SELECT id, n FROM orders",
        "INSERT INTO orders (id, status, n) VALUES (1, '', 0)",
    )
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(ListedOrder, 1, interval=0.05))
        await watcher.reached(lambda now: now.reason is Reason.NOT_A_TABLE)
        assert "install" not in watcher.statistics().detail
        await execute(database, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


BROKEN: dict[str, tuple[Reason, str]] = {
    "no such database": (Reason.CANNOT_LISTEN, "no_such_database"),
    "an argument that the driver refuses": (Reason.CANNOT_LISTEN, "sslmode"),
    "a part of the schema is gone": (Reason.SCHEMA_OUTDATED, "open_listener"),
    "no right to register": (Reason.NOT_PERMITTED, "open_listener"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_does_not_pass_is_not_called_a_lost_connection(
    engine: AsyncEngine, database: URL, what: str
) -> None:
    reason, named = BROKEN[what]
    async with role(database) as stranger:
        url = database
        if what == "no such database":
            url = database.set(database=named)
        elif what == "an argument that the driver refuses":
            url = database.update_query_dict({"ssl": "no-such-sslmode"})
        elif what == "a part of the schema is gone":
            await execute(database, "DROP FUNCTION rowbell.open_listener() CASCADE")
        else:
            url = stranger
            await execute(database, "REVOKE EXECUTE ON FUNCTION rowbell.open_listener FROM PUBLIC")
        async with RowWatcher(engine, listen_url=url, timing=Timing(backoff=60)) as watcher:
            now = watcher.statistics()
            assert (now.state, now.reason) == (WatcherState.POLLING, reason)
            assert named in now.detail


@rowbell.watched(for_each="row")
class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


async def test_writers_that_knew_the_keys_old_type_go_on_in_silence(
    parcels: AsyncEngine, database: URL
) -> None:
    """The key's type was altered; sessions that had compiled the trigger wake whom they should."""
    await execute(database, "INSERT INTO tickets VALUES (1, 0), (2, 0)")
    async with connected(database) as writer, armed(parcels, Ticket, 1) as (watcher, wait):
        for _ in range(7):  # PL/pgSQL keeps a plan from the sixth execution on
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


# -- what is given up goes on nowhere


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
    """By a scope of anyio, which cancels again and again, also what is being cleaned up."""
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
    """How many sessions wait for a lock, once those that end have ended."""
    query = text(
        "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE NOT l.granted AND a.datname = current_database()"
    )
    for _ in range(100):
        if not await connection.scalar(query):
            return 0
        await asyncio.sleep(0.01)
    return int(await connection.scalar(query) or 0)
