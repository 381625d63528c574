"""RowWatcher: start, stop, sharing, bad input, and what it costs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import URL, ColumnElement, create_engine, event, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

import rowbell
from rowbell import (
    InvalidArgumentError,
    ListenError,
    Reason,
    RowWatcher,
    SessionStateError,
    Timing,
    UnmappedModelError,
    UnsupportedEngineError,
    WaitTimeoutError,
    WatcherState,
    WatcherStateError,
    wait_for_row_change,
)
from rowbell._watch.watcher import open_watcher
from support.models import Base, Item, Order, Plain
from support.observed import backends, execute, none_left
from support.waits import armed_wait

QUICK = Timing(heartbeat=0.1, narrow=0.1)
ROWS = 1_000


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, ROWS + 1)]


async def waiting(watcher: RowWatcher, key: int = 1, **more: Any) -> asyncio.Task[Order]:
    task = asyncio.create_task(watcher.wait_for_change(Order, key, **more))
    await watcher.reached(lambda now: now.armed + now.polled > 0 and now.queries > 0)
    return task


# -- bad input


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("interval", 0),
        ("interval", -1.0),
        ("interval", float("nan")),
        ("interval", float("inf")),
        ("timeout", -0.1),
        ("timeout", float("nan")),
        ("until", "paid"),
        ("since", 7),
        ("since", Item(id=1)),
        ("since", {}),
        ("since", Order()),
    ],
)
async def test_an_argument_out_of_range_is_refused_at_the_call(
    engine: AsyncEngine, argument: str, value: Any
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match=argument):
            await wait_for_row_change(session, Order, 1, **{argument: value})
    assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]


async def test_a_coroutine_function_is_no_predicate(engine: AsyncEngine) -> None:
    async def until(order: Order) -> bool:
        return bool(order)

    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match="until"):
            await wait_for_row_change(session, Order, 1, until=until)


async def test_a_single_name_is_no_list_of_columns(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(TypeError, match=r"columns=\['status'\]"):
            await wait_for_row_change(session, Order, 1, columns="status")


@pytest.mark.parametrize("model", [int, object(), Order(id=1), Base, "orders"])
async def test_what_is_not_mapped_is_refused_at_the_call(engine: AsyncEngine, model: Any) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(UnmappedModelError, match="is not a class mapped by SQLAlchemy"):
            await wait_for_row_change(session, model, 1)


async def test_sync_engines_and_sessions_are_refused(database: URL) -> None:
    engine = create_engine("sqlite://")
    with pytest.raises(UnsupportedEngineError, match="create_async_engine"):
        RowWatcher(engine)  # type: ignore[arg-type]
    with Session(engine) as session, pytest.raises(UnsupportedEngineError, match="AsyncSession"):
        await wait_for_row_change(session, Order, 1)  # type: ignore[arg-type]
    engine.dispose()


async def test_one_connection_for_all_sessions_is_refused(database: URL) -> None:
    with pytest.raises(UnsupportedEngineError, match="StaticPool"):
        RowWatcher(create_async_engine(database, poolclass=StaticPool))


@pytest.mark.parametrize("arguments", [{"mode": "push"}, {"recheck": 0}, {"recheck": -1}])
def test_a_watcher_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    engine = create_async_engine("postgresql+asyncpg://nowhere/none")
    with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
        RowWatcher(engine, **arguments)


def test_times_are_positive() -> None:
    with pytest.raises(InvalidArgumentError, match=r"timing\.heartbeat"):
        Timing(heartbeat=0)


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg2://me:secret@nowhere/none"])
async def test_a_listen_url_without_asyncio_is_refused_and_not_quoted(
    engine: AsyncEngine, url: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="listen_url") as caught:
        RowWatcher(engine, listen_url=url)
    assert "secret" not in str(caught.value)


async def test_a_condition_that_is_no_sql_here_is_refused_at_the_call(engine: AsyncEngine) -> None:
    class Odd(ColumnElement[bool]):
        inherit_cache = True

    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match="SQL of this database"):
            await wait_for_row_change(session, Order, 1, until=Odd())


# -- life


async def test_what_a_caller_gives_breaks_only_his_own_wait(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="poll") as watcher:
        wait = await waiting(watcher, interval=Decimal("0.01"), timeout=Decimal(20))
        with pytest.raises(ZeroDivisionError):
            await watcher.reached(lambda now: now.queries > 5 and 1 / 0)
        await execute(orders, update(Order).values(n=1))
        assert (await wait).n == 1


async def test_waits_that_are_over_are_forgotten(orders: AsyncEngine) -> None:
    """However many there were, and though nothing is due for the armed ones."""
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        for _ in range(10):
            waits = [
                asyncio.create_task(watcher.wait_for_change(Order, key, interval=3600))
                for key in range(1, 101)
            ]
            await watcher.reached(lambda now: now.armed == 100)
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        assert len(watcher._board.schedule) < 300
        assert not watcher._board.watches


async def test_a_watcher_that_is_not_open_says_so(engine: AsyncEngine) -> None:
    watcher = RowWatcher(engine)
    with pytest.raises(WatcherStateError, match="not open: enter it"):
        await watcher.wait_for_change(Order, 1)
    async with watcher:
        pass
    with pytest.raises(WatcherStateError, match="closed: make a new one"):
        await watcher.wait_for_change(Order, 1)
    with pytest.raises(WatcherStateError, match="entered twice"):
        await watcher.__aenter__()
    await watcher.aclose()


@pytest.mark.fault("B38")
async def test_closing_ends_the_waits_with_an_error(orders: AsyncEngine) -> None:
    watcher = RowWatcher(orders, mode="listen")
    async with watcher:
        wait = await waiting(watcher)
    with pytest.raises(WatcherStateError, match="closed during the wait"):
        await wait


async def test_one_watcher_serves_an_engine(engine: AsyncEngine) -> None:
    async with RowWatcher(engine) as watcher:
        with pytest.raises(WatcherStateError, match="share it"):
            await RowWatcher(engine).__aenter__()
        copy = engine.execution_options(isolation_level="SERIALIZABLE")
        assert open_watcher(copy) is watcher
    async with RowWatcher(engine):
        pass


@pytest.mark.fault("B11")
def test_a_second_event_loop_is_refused_and_can_have_its_own(database: URL) -> None:
    engine = create_async_engine(
        database, poolclass=NullPool
    )  # as SQLAlchemy wants it across loops
    with asyncio.Runner() as one, asyncio.Runner() as two:
        watcher = RowWatcher(engine)
        one.run(watcher.__aenter__())
        with pytest.raises(WatcherStateError, match="another event loop"):
            two.run(watcher.wait_for_change(Order, 1))
        with pytest.raises(WatcherStateError, match="another event loop"):
            two.run(watcher.aclose())

        async def own() -> None:
            async with RowWatcher(engine, mode="listen"):
                pass

        two.run(own())
        one.run(watcher.aclose())
        one.run(engine.dispose())


@pytest.mark.fault("B37")
async def test_start_and_stop_at_any_moment_leave_nothing_behind(
    orders: AsyncEngine, database: URL
) -> None:
    """Closed while it connects, proves, registers, reads: no task, no connection, no row."""
    before = asyncio.all_tasks()
    for step in range(60):
        watcher = RowWatcher(orders, timing=QUICK)
        watcher.start()
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
        for _ in range(step):
            await asyncio.sleep(0.0005)  # not for something: another moment each time
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
                await asyncio.sleep(0.0005)  # not for something: another moment each time
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled() or not wait.exception()
    assert asyncio.all_tasks() == before
    assert open_watcher(orders) is None
    assert orders.pool.checkedout() == 0  # type: ignore[attr-defined]
    await orders.dispose()
    gc.collect()
    await none_left(orders)


async def test_a_close_that_is_cancelled_closes_all_the_same(orders: AsyncEngine) -> None:
    """Also by ``Task.cancel()``, which no scope of anyio keeps out."""
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


@pytest.mark.fault("B17")
async def test_without_a_watcher_overlapping_waits_share_one(orders: AsyncEngine) -> None:
    async def wait(key: int) -> Order:
        async with AsyncSession(orders) as session:
            return await wait_for_row_change(session, Order, key, interval=60, timeout=20)

    waits = [asyncio.create_task(wait(key)) for key in range(1, 11)]
    await asyncio.sleep(0)
    watcher = open_watcher(orders)
    assert watcher is not None
    await watcher.reached(lambda now: now.armed == 10)
    await execute(orders, update(Order).values(n=1))
    assert [order.n for order in await asyncio.gather(*waits)] == [1] * 10
    assert watcher.statistics().state is WatcherState.CLOSED
    assert open_watcher(orders) is None


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
            wait = asyncio.create_task(watcher.wait_for_change(Plain, 1, interval=0.02, timeout=20))
            await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
            await execute(orders, update(Plain).values(n=n))
            assert (await wait).n == n
    [warning] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "table plain" in warning
    assert "install_triggers" in warning


async def test_waits_that_open_a_watcher_each_warn_once_all_the_same(
    orders: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(orders, insert(Plain).values(id=1))
    for _ in range(3):
        async with AsyncSession(orders) as session:
            wait = asyncio.create_task(wait_for_row_change(session, Plain, 1))
            await asyncio.sleep(0)  # the wait begins
            watcher = open_watcher(orders)
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


async def test_forged_and_foreign_notifications_are_counted_and_ignored(
    orders: AsyncEngine,
) -> None:
    forged = ["", "hello", "1:", "1:x:1", "1:1:1,", "1:1:;DROP TABLE", "2", "x" * 7000, "1:1:٣"]
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await waiting(watcher, interval=60)
        async with orders.begin() as connection:
            for payload in forged:
                await connection.execute(text("SELECT pg_notify('rowbell', :p)"), {"p": payload})
            await connection.execute(update(Order).values(n=1))
        await wait
        assert watcher.statistics().ignored == len(forged)


async def test_a_true_hint_about_nothing_is_a_read_and_no_answer(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await waiting(watcher, interval=60, timeout=0.3)
        await execute(orders, "SELECT pg_notify('rowbell', '1:1:*')")
        with pytest.raises(WaitTimeoutError):
            await wait


@pytest.mark.fault("B27")
async def test_the_safety_net_finds_what_no_trigger_tells(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="listen", recheck=0.05) as watcher:
        wait = await armed_wait(watcher)
        async with orders.begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(update(Order).values(n=1))
        assert (await wait).n == 1


# -- what it costs: counted, not timed


@pytest.fixture
async def counted(orders: AsyncEngine) -> AsyncIterator[list[str]]:
    """The statements that go through the engine."""
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(orders.sync_engine, "before_cursor_execute", count)
    yield statements
    event.remove(orders.sync_engine, "before_cursor_execute", count)


@pytest.mark.fault("B34")
async def test_a_thousand_armed_waits_hold_one_connection_and_cost_no_query(
    orders: AsyncEngine, counted: list[str]
) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, key, interval=0.5))
            for key in range(1, ROWS + 1)
        ]
        await watcher.reached(lambda now: now.armed == ROWS)
        assert len(counted) < 40
        # Heartbeats go on, on the listener's own connection; of reads there are none.
        await asyncio.sleep(QUICK.heartbeat)
        counted.clear()
        await asyncio.sleep(10 * QUICK.heartbeat)
        assert counted == []
        await orders.dispose()
        assert len(await backends(orders)) == 1
        counted.clear()
        await execute(orders, update(Order).values(n=1))
        assert [order.n for order in await asyncio.gather(*waits)] == [1] * ROWS
        assert len(counted) < 20


@pytest.mark.fault("B34")
async def test_a_thousand_polled_waits_share_one_query_a_tick(
    orders: AsyncEngine, counted: list[str]
) -> None:
    async with RowWatcher(orders, mode="poll") as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, key, interval=0.1))
            for key in range(1, ROWS + 1)
        ]
        await watcher.reached(lambda now: now.rereads >= ROWS)
        counted.clear()
        before = watcher.statistics().rereads
        await watcher.reached(lambda now: now.rereads >= before + 5 * ROWS)
        assert len(counted) <= 6
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


@pytest.mark.fault("B8", "B36")
async def test_a_flood_of_notifications_for_one_row_is_few_reads(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await waiting(watcher, interval=60)
        await watcher.reached(lambda now: now.armed == 1)
        before = watcher.statistics().rereads
        async with orders.begin() as connection:
            oid = await connection.scalar(text("SELECT 'orders'::regclass::oid"))
            flood = f"SELECT pg_notify('rowbell', '1:{oid}:' || i) FROM generate_series(1, 20000) i"
            await connection.execute(text(flood))
            await connection.execute(text(f"SELECT pg_notify('rowbell', '1:{oid}:*')"))
        await execute(orders, update(Order).where(Order.id == 1).values(n=1))
        await wait
        assert watcher.statistics().notifications >= 20002
        assert watcher.statistics().rereads - before <= 5


# -- sessions


async def test_two_waits_on_one_session_are_refused(orders: AsyncEngine) -> None:
    async with AsyncSession(orders) as session:
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1))
        await asyncio.sleep(0)  # the wait begins
        with pytest.raises(SessionStateError, match="waits already"):
            await wait_for_row_change(session, Order, 2)
        wait.cancel()
        await asyncio.wait([wait])
        with pytest.raises(WaitTimeoutError):
            await wait_for_row_change(session, Order, 2, timeout=0)


@pytest.mark.fault("B31")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_frozen_snapshot_is_refused_at_the_call(orders: AsyncEngine, level: str) -> None:
    engine = orders.execution_options(isolation_level=level)
    async with AsyncSession(engine) as session:
        await session.get(Order, 1)
        with pytest.raises(SessionStateError, match=level):
            await wait_for_row_change(session, Order, 1)
        await session.rollback()
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1, timeout=20))
        await _changed_once_waiting(orders)
        assert (await wait).n == 1


async def _changed_once_waiting(engine: AsyncEngine) -> None:
    await asyncio.sleep(0)  # the wait begins
    watcher = open_watcher(engine)
    assert watcher is not None
    await watcher.reached(lambda now: now.armed == 1)
    await execute(engine, update(Order).where(Order.id == 1).values(n=Order.n + 1))


async def test_what_only_this_session_sees_is_not_found_with_a_hint(orders: AsyncEngine) -> None:
    async with AsyncSession(orders) as session:
        session.add(Order(id=5000))
        await session.flush()
        with pytest.raises(rowbell.NotFoundError, match="not found: this session sees it"):
            await wait_for_row_change(session, Order, 5000)


async def test_rollback_per_test_sees_what_the_test_writes(orders: AsyncEngine) -> None:
    """Sessions bound to one connection with an outer transaction that is rolled back."""
    async with orders.connect() as connection:
        transaction = await connection.begin()
        more: dict[str, Any] = {"bind": connection, "join_transaction_mode": "create_savepoint"}
        async with AsyncSession(**more) as waiter, AsyncSession(**more) as writer:
            wait = asyncio.create_task(
                wait_for_row_change(waiter, Order, 1, interval=0.01, timeout=20, since={"n": 0})
            )
            await writer.execute(update(Order).where(Order.id == 1).values(n=1))
            await writer.commit()
            assert (await wait).n == 1
            until = await wait_for_row_change(waiter, Order, 1, until=lambda order: order.n == 1)
            assert until in waiter
            with pytest.raises(WaitTimeoutError, match="own connection"):
                await wait_for_row_change(waiter, Order, 1, interval=0.01, timeout=0.05)
        await transaction.rollback()
    async with AsyncSession(orders) as session:
        assert (await session.get_one(Order, 1)).n == 0


async def test_a_session_bound_to_a_frozen_connection_is_refused(orders: AsyncEngine) -> None:
    engine = orders.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as connection, connection.begin(), AsyncSession(connection) as s:
        with pytest.raises(SessionStateError, match="REPEATABLE READ"):
            await wait_for_row_change(s, Order, 1)


async def test_one_unreadable_key_fails_only_its_own_wait(orders: AsyncEngine) -> None:
    """A value that the server refuses is its own wait's error, not that of the batch."""
    from support.models import Seat

    await execute(orders, insert(Seat).values(row="a", number=1))
    async with RowWatcher(orders, mode="poll") as watcher:
        good = asyncio.create_task(
            watcher.wait_for_change(Seat, ("a", 1), interval=0.02, timeout=20)
        )
        bad = asyncio.create_task(watcher.wait_for_change(Seat, ("\0", 1), timeout=20))
        with pytest.raises(Exception, match="invalid byte sequence"):
            await bad
        await execute(orders, update(Seat).values(taken=True))
        assert (await good).taken
