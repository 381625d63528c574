"""The contract of wait_for_row_change, on both sources of signals alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL, delete, func, insert, inspect, text, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import InstrumentedAttribute, selectinload, undefer
from sqlalchemy.orm.exc import DetachedInstanceError

import rowbell
from rowbell import (
    InvalidColumnError,
    NotFoundError,
    RowWatcher,
    Timing,
    WaitTimeoutError,
    wait_for_row_change,
)
from support.models import Animal, Base, Colour, Dog, Item, Odd, Order, Plain, Sealed, Seat
from support.observed import execute
from support.roles import managed

LONG = 30.0  # a timeout that is not to be reached
BRIEF = 0.15  # one that is
QUICK = Timing(heartbeat=0.2, narrow=0.2)


@pytest.fixture(params=["listen", "poll", "managed"])
def ground_kind(request: pytest.FixtureRequest) -> str:
    """Armed waits, polled ones, and armed ones of an application in a hosted database."""
    return str(request.param)


@pytest.fixture
async def engine(
    ground_kind: str, rowbell_engine: AsyncEngine, database: URL
) -> AsyncGenerator[AsyncEngine]:
    if ground_kind != "managed":
        yield rowbell_engine
        return
    models = [mapper.class_ for mapper in Base.registry.mappers if mapper.class_ is not Plain]
    async with managed(database, *models) as (login, role):
        engine = create_async_engine(login, connect_args={"server_settings": {"role": role}})
        yield engine
        await engine.dispose()


@pytest.fixture
async def watcher(ground_kind: str, engine: AsyncEngine) -> AsyncGenerator[RowWatcher]:
    """No safety re-reads help the armed."""
    mode = "poll" if ground_kind == "poll" else "listen"
    async with RowWatcher(engine, mode=mode, recheck=None, timing=QUICK) as watcher:
        yield watcher


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncGenerator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


class Ground:
    """What a test stands on: rows, another connection that changes them, and waits begun."""

    def __init__(self, engine: AsyncEngine, watcher: RowWatcher) -> None:
        self.engine = engine
        self.watcher = watcher
        self.probes = 0
        # An armed wait must not be saved by its interval; a polled one lives by it.
        self.interval = 60.0 if watcher.statistics().reason is None else 0.02

    async def execute(self, *statements: Any) -> None:
        async with self.engine.begin() as connection:
            for statement in statements:
                if isinstance(statement, str):
                    await connection.exec_driver_sql(statement)
                else:
                    await connection.execute(statement)

    @asynccontextmanager
    async def begun(
        self, wait: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any, **more: Any
    ) -> AsyncGenerator[asyncio.Task[Any]]:
        """A wait that has its baseline and, where it is to be, is armed."""
        before = self.watcher.statistics()
        more = {"interval": self.interval, "timeout": LONG, **more}
        task = asyncio.create_task(wait(*arguments, **more))
        polling = before.reason is not None

        def ready(now: rowbell.WatcherStatistics) -> bool:
            return now.queries > before.queries if polling else now.armed > before.armed

        reached = asyncio.create_task(self.watcher.reached(ready))
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def rung(self) -> int:
        """How many notifications came from triggers."""
        return self.watcher.statistics().notifications - self.probes

    async def _everything_is_read(self) -> None:
        before = self.watcher.statistics()
        self.probes += 1
        await self.execute("SELECT pg_notify('rowbell', '0:0:')")
        await self.watcher.reached(
            lambda now: now.rereads > before.rereads and now.notifications > before.notifications
        )

    async def still_waiting(self, task: asyncio.Task[Any]) -> None:
        """Whatever might end the wait has had its chance: the row was read since."""
        if self.interval < LONG:
            seen = self.watcher.statistics().queries
            await self.watcher.reached(lambda now: now.queries > seen + 1)
        else:
            # A payload of another version: everything is read once more. Twice, because the
            # first may find a read under way that began before it.
            for _ in range(2):
                await self._everything_is_read()
        assert not task.done()


@pytest.fixture
async def ground(engine: AsyncEngine, watcher: RowWatcher) -> Ground:
    ground = Ground(engine, watcher)
    await ground.execute(
        insert(Order).values([{"id": 1, "status": "new"}, {"id": 2, "status": "new"}])
    )
    return ground


async def test_the_refreshed_instance_is_returned(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(update(Order).where(Order.id == 1).values(status="paid"))
        order = await wait
    assert (order.status, order in session) == ("paid", True)


async def test_another_row_wakes_nobody(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(update(Order).where(Order.id == 2).values(status="paid"))
        await ground.still_waiting(wait)


async def test_a_row_that_does_not_exist_is_not_found(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(NotFoundError, match=r"Order\(id=99\) not found") as caught:
        await wait_for_row_change(session, Order, 99, interval=ground.interval, timeout=LONG)
    assert (caught.value.key, caught.value.deleted) == ({"id": 99}, False)


@pytest.mark.fault("B24")
@pytest.mark.parametrize(
    "statement", ["DELETE FROM orders WHERE id = 1", "TRUNCATE orders CASCADE"]
)
async def test_a_row_that_goes_was_deleted(
    ground: Ground, session: AsyncSession, statement: str
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(statement)
        with pytest.raises(NotFoundError, match=r"Order\(id=1\) was deleted"):
            await wait


@pytest.mark.fault("B24")
async def test_a_cascading_delete_is_a_delete(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1))
    async with ground.begun(wait_for_row_change, session, Item, 1) as wait:
        await ground.execute(delete(Order).where(Order.id == 1))
        with pytest.raises(NotFoundError, match="was deleted"):
            await wait


@pytest.mark.parametrize(
    "statement",
    [
        (
            "INSERT INTO orders (id, status, n) VALUES (1, '', 0) "
            "ON CONFLICT (id) DO UPDATE SET status = 'paid'"
        ),
        (
            "MERGE INTO orders o USING (SELECT 1 AS id) s ON o.id = s.id "
            "WHEN MATCHED THEN UPDATE SET status = 'paid'"
        ),
        (
            "WITH one AS (UPDATE orders SET n = 5 WHERE id = 2 RETURNING id) "
            "UPDATE orders SET status = 'paid' WHERE id = 1"
        ),
        "WITH one AS (UPDATE orders SET status = 'paid' WHERE id = 1) SELECT 1",
    ],
)
async def test_every_kind_of_update_counts(
    ground: Ground, session: AsyncSession, statement: str
) -> None:
    async with ground.engine.connect() as connection:
        version = connection.dialect.server_version_info
    if statement.startswith("MERGE") and version is not None and version < (15,):
        pytest.skip("PostgreSQL has MERGE since 15")
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(statement)
        assert (await wait).status == "paid"


@pytest.mark.fault("B24")
async def test_a_moved_key_was_deleted(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET id = 1001 WHERE id = 1")
        with pytest.raises(NotFoundError, match="was deleted"):
            await wait


@pytest.mark.fault("B24")
async def test_swapped_keys_are_changes(
    ground: Ground, session: AsyncSession, database: URL
) -> None:
    await execute(
        database,
        "ALTER TABLE items DROP CONSTRAINT items_order_id_fkey",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        "ALTER TABLE orders ADD PRIMARY KEY (id) DEFERRABLE",
        "UPDATE orders SET note = 'second' WHERE id = 2",
    )
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET id = 3 - id")
        assert (await wait).note == "second"


@pytest.mark.fault("B24")
async def test_deleted_and_inserted_again_in_one_transaction_is_no_deletion(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(
            delete(Order).where(Order.id == 1), insert(Order).values(id=1, status="again")
        )
        assert (await wait).status == "again"


@pytest.mark.fault("B23")
async def test_an_update_that_changes_nothing_is_no_change(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET status = status", "UPDATE orders SET n = n + 0")
        await ground.still_waiting(wait)
        assert ground.rung == 0


@pytest.mark.fault("B33")
async def test_what_is_rolled_back_is_no_change(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        async with ground.engine.connect() as connection:
            await connection.execute(update(Order).values(status="paid"))
            await connection.rollback()
        async with ground.engine.begin() as connection:
            nested = await connection.begin_nested()
            await connection.execute(update(Order).values(status="paid"))
            await nested.rollback()
        await ground.still_waiting(wait)


@pytest.mark.fault("B42")
async def test_there_and_back_within_a_transaction_is_no_change(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET n = 1", "UPDATE orders SET n = 0")
        await ground.still_waiting(wait)


# -- time


async def test_no_change_within_the_timeout_is_a_timeout_error(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(TimeoutError, match=r"No change detected in Order\(id=1\) within 0.15s"):
        await wait_for_row_change(session, Order, 1, timeout=BRIEF)
    assert (await session.get_one(Order, 1)).status == "new"


@pytest.mark.fault("B32")
async def test_a_timeout_below_the_interval_sees_the_change(
    ground: Ground, session: AsyncSession
) -> None:
    """The last read comes after the time has passed."""
    async with ground.begun(
        wait_for_row_change, session, Order, 1, interval=60, timeout=0.5
    ) as wait:
        await ground.execute(update(Order).where(Order.id == 1).values(status="paid"))
        assert (await wait).status == "paid"


@pytest.mark.fault("B32")
async def test_a_timeout_of_zero_reads_and_gives_up(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(WaitTimeoutError):
        await wait_for_row_change(session, Order, 1, timeout=0)
    await ground.execute(update(Order).values(status="paid"))
    order = await wait_for_row_change(session, Order, 1, timeout=0, since={"status": "new"})
    assert order.status == "paid"


@pytest.mark.fault("B32")
async def test_the_timeout_is_wall_time(ground: Ground, engine: AsyncEngine) -> None:
    """Hundreds of waits with a short interval end when they said."""
    loop = asyncio.get_running_loop()

    async def wait() -> float:
        with pytest.raises(WaitTimeoutError):
            await ground.watcher.wait_for_change(Order, 1, interval=0.01, timeout=0.3)
        return loop.time()

    begun = loop.time()
    ended = await asyncio.gather(*(wait() for _ in range(300)))
    assert begun + 0.3 <= min(ended)
    assert max(ended) < begun + 3


# -- columns


@pytest.mark.fault("B23", "B43")
@pytest.mark.parametrize("column", ["status", Order.status])
async def test_only_the_named_columns_count(
    ground: Ground, session: AsyncSession, column: str | InstrumentedAttribute[str]
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1, columns=[column]) as wait:
        await ground.execute("UPDATE orders SET n = n + 1")
        await ground.still_waiting(wait)
        assert ground.rung == 0
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await wait).status == "paid"


async def test_a_wait_for_more_columns_than_another_on_the_same_row_is_served(
    ground: Ground, session: AsyncSession
) -> None:
    wait_for = ground.watcher.wait_for_change
    async with (
        ground.begun(wait_for, Order, 1, columns=["status"]) as narrow,
        ground.begun(wait_for, Order, 1, columns=["n"]) as other,
    ):
        await ground.execute("UPDATE orders SET n = 1")
        assert (await other).n == 1
        await ground.still_waiting(narrow)
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await narrow).status == "paid"


async def test_an_unknown_column_is_refused_at_the_call(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(ValueError, match="'statu' is not a mapped column of Order: did you mean"):
        await wait_for_row_change(session, Order, 1, columns=["statu"])
    with pytest.raises(InvalidColumnError, match=r"Item\.name"):
        await wait_for_row_change(session, Order, 1, columns=[Item.name])


ODD = UUID("3f2504e0-4f89-41d3-9a0c-0305e82c3301")
CHANGES = [
    ("data", {"a": [1, None]}, {"a": [1, 2]}),
    ("data", {"a": True}, {"a": 1}),
    ("binary", {"a": {"b": []}}, {"a": {"b": [0]}}),
    ("tags", ["a"], ["a", "b"]),
    ("tags", None, []),
    ("amount", Decimal("1.0"), Decimal("1.01")),
    ("amount", Decimal("NaN"), Decimal(0)),
    ("ratio", float("nan"), 1.0),
    ("colour", Colour.RED, Colour.BLUE),
    ("at", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)),
    ("secret", Sealed("a"), Sealed("b")),
    ("big", "a", "b"),
    ("blob", b"\0", b"\1"),
    ("sum", Decimal(1), Decimal(2)),
]


@pytest.mark.fault("B43")
@pytest.mark.parametrize("watched", [True, False], ids=["named", "all"])
@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_a_changed_value_of_any_type_is_a_change(
    ground: Ground, session: AsyncSession, column: str, before: Any, after: Any, *, watched: bool
) -> None:
    """Renamed, deferred, unhashable and without equality, in a table with awkward names."""
    await ground.execute(insert(Odd).values({"id": ODD, column: before}))
    columns = [column] if watched else None
    async with ground.begun(wait_for_row_change, session, Odd, ODD, columns=columns) as wait:
        await ground.execute(update(Odd).values({column: after}))
        await wait


@pytest.mark.fault("B43")
@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_an_unchanged_value_of_any_type_is_no_change(
    ground: Ground, column: str, before: Any, after: Any
) -> None:
    await ground.execute(insert(Odd).values({"id": ODD, column: before}))
    with pytest.raises(WaitTimeoutError):
        await ground.watcher.wait_for_change(
            Odd, ODD, columns=[column], interval=0.01, timeout=BRIEF
        )
    await ground.execute(update(Odd).values({column: before, "id": ODD}))
    with pytest.raises(WaitTimeoutError):
        await ground.watcher.wait_for_change(
            Odd, ODD, interval=0.01, timeout=BRIEF, since={column: before}
        )
    del after


@pytest.mark.fault("B43")
async def test_json_is_compared_by_value(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, data={"a": 1, "b": 2}))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["data"]) as wait:
        await ground.execute("""UPDATE "Select"."Odd table" SET "user" = '{"b":2,  "a":1}'""")
        await ground.still_waiting(wait)


async def test_a_writer_who_shows_few_digits_changes_as_much(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, ratio=0.3))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["ratio"]) as wait:
        await ground.execute(
            "SET LOCAL extra_float_digits = -5",
            """UPDATE "Select"."Odd table" SET ratio = 0.1::float8 + 0.2::float8""",
        )
        assert (await wait).ratio == 0.1 + 0.2


async def test_a_generated_column_can_be_watched(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, amount=1))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["doubled"]) as wait:
        await ground.execute(update(Odd).values(amount=2))
        assert (await wait).doubled == 4


async def test_what_is_deferred_is_not_loaded(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Odd).values(id=ODD, big="a", blob=b"a"))
    async with ground.begun(wait_for_row_change, session, Odd, ODD) as wait:
        await ground.execute(update(Odd).values(big="b"))
        odd = await wait
    assert {"big", "blob"} <= inspect(odd).unloaded


# -- keys


@pytest.mark.parametrize("key", [("a", 1), {"number": 1, "row": "a"}, ["a", 1]])
async def test_composite_keys_are_given_as_session_get_takes_them(
    ground: Ground, session: AsyncSession, key: Any
) -> None:
    await ground.execute(
        insert(Seat).values([{"row": "a", "number": n, "taken": False} for n in (1, 2)])
    )
    async with ground.begun(wait_for_row_change, session, Seat, key) as wait:
        await ground.execute("UPDATE seats SET taken = true WHERE number = 2")
        await ground.still_waiting(wait)
        await ground.execute("UPDATE seats SET taken = true WHERE number = 1")
        assert (await wait).taken


@pytest.mark.parametrize(("table", "column"), [("animals", "name"), ("dogs", "tricks")])
async def test_joined_inheritance_watches_both_tables(
    ground: Ground, session: AsyncSession, table: str, column: str
) -> None:
    await ground.execute(
        "INSERT INTO animals VALUES (1, 'dog', 'Rex')", "INSERT INTO dogs VALUES (1, 0)"
    )
    async with ground.begun(wait_for_row_change, session, Dog, 1) as wait:
        await ground.execute(f"UPDATE {table} SET {column} = '7'")
        assert str(getattr(await wait, column)) == "7"


async def test_a_base_class_returns_the_subclass(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(
        "INSERT INTO animals VALUES (1, 'dog', 'Rex')", "INSERT INTO dogs VALUES (1, 0)"
    )
    async with ground.begun(wait_for_row_change, session, Animal, 1) as wait:
        await ground.execute("UPDATE animals SET name = 'Max'")
        assert isinstance(await wait, Dog)


# -- until, since, options


@pytest.mark.parametrize("until", [Order.status == "paid", lambda order: order.status == "paid"])
async def test_until_waits_through_other_changes(
    ground: Ground, session: AsyncSession, until: Any
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1, until=until) as wait:
        await ground.execute("UPDATE orders SET status = 'packed'")
        await ground.still_waiting(wait)
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await wait).status == "paid"


@pytest.mark.parametrize("until", [Order.n >= 0, lambda order: order.n >= 0])
async def test_until_that_holds_already_returns_at_once(
    ground: Ground, session: AsyncSession, until: Any
) -> None:
    order = await wait_for_row_change(session, Order, 1, until=until, timeout=0)
    assert order.n == 0


async def test_until_refuses_columns_of_other_models(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(InvalidColumnError, match=r"items\.name"):
        await wait_for_row_change(session, Order, 1, until=Item.name == "x")


async def test_an_error_in_until_is_the_callers(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(ZeroDivisionError):
        await wait_for_row_change(session, Order, 1, until=lambda order: 1 / order.n)


@pytest.mark.fault("B31")
async def test_since_an_instance_the_change_before_the_call_is_seen(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    await ground.execute("UPDATE orders SET status = 'paid'")
    again = await wait_for_row_change(session, Order, 1, since=order, timeout=LONG)
    assert again is order
    assert order.status == "paid"


@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_since_values_of_any_type(
    ground: Ground, column: str, before: Any, after: Any
) -> None:
    await ground.execute(insert(Odd).values({"id": ODD, column: after}))
    odd = await ground.watcher.wait_for_change(Odd, ODD, since={column: before}, timeout=0)
    assert odd.id == ODD


@pytest.mark.fault("B33")
async def test_since_ignores_what_the_caller_changed_himself(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    order.status = "mine"
    with pytest.raises(WaitTimeoutError):
        await wait_for_row_change(session, Order, 1, since=order, timeout=0)


@pytest.mark.fault("B45")
async def test_options_load_relationships(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1))
    options = [selectinload(Order.items)]
    async with (
        ground.begun(wait_for_row_change, session, Order, 1, options=options) as one,
        ground.begun(ground.watcher.wait_for_change, Order, 1, options=options) as two,
        ground.begun(ground.watcher.wait_for_change, Order, 1) as three,
    ):
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert [item.id for item in (await one).items] == [1]
        assert [item.id for item in (await two).items] == [1]
        with pytest.raises(DetachedInstanceError):
            len((await three).items)


# -- the session


@pytest.mark.fault("B45")
async def test_the_callers_own_instance_is_refreshed(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Odd).values(id=ODD, amount=1, big="a"))
    odd = await session.get_one(Odd, ODD, options=[undefer(Odd.big)])
    async with ground.begun(wait_for_row_change, session, Odd, ODD) as wait:
        await ground.execute(update(Odd).values(amount=2, big="b"))
        assert await wait is odd
    assert (odd.amount, odd.big) == (2, "b")


@pytest.mark.fault("B45")
async def test_pending_changes_are_kept_and_not_flushed(
    ground: Ground, session: AsyncSession
) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1, name="old"))
    order = await session.get_one(Order, 1, options=[selectinload(Order.items)])
    order.note, order.items[0].name = "mine", "mine"
    added = Order(id=7)
    session.add(added)
    async with ground.begun(
        wait_for_row_change, session, Order, 1, options=[selectinload(Order.items)]
    ) as wait:
        await ground.execute("UPDATE orders SET status = 'paid'")
        await wait
    assert (order.status, order.note) == ("paid", "mine")
    assert order.items[0].name == "mine"
    assert added in session.new
    assert order in session.dirty
    await session.commit()
    assert await session.scalar(func.count(Order.id)) == 3


@pytest.mark.fault("B9", "B10")
async def test_no_connection_is_taken_that_the_caller_does_not_hold(
    ground: Ground, session: AsyncSession
) -> None:
    session.add(Order(id=7))
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.still_waiting(wait)
        async with ground.engine.connect() as connection:
            in_transaction = await connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND state LIKE 'idle in transaction%'"
                )
            )
    assert in_transaction == 0


async def test_the_session_is_usable_after_cancellation(
    ground: Ground, session: AsyncSession
) -> None:
    order = await session.get_one(Order, 1)
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        wait.cancel()
        await asyncio.wait([wait])
    order.status = "paid"
    await session.commit()
    assert ground.watcher.statistics().armed + ground.watcher.statistics().polled == 0


async def test_a_predicate_sees_an_instance_of_no_session(
    ground: Ground, session: AsyncSession
) -> None:
    seen: list[Order] = []

    def until(order: Order) -> bool:
        seen.append(order)
        return True

    await wait_for_row_change(session, Order, 1, until=until)
    assert inspect(seen[0]).detached


async def test_ten_sessions_on_one_row_all_return(ground: Ground, engine: AsyncEngine) -> None:
    make = async_sessionmaker(engine)

    async def wait() -> str:
        async with make() as session:
            order = await wait_for_row_change(
                session, Order, 1, interval=ground.interval, timeout=LONG
            )
            return str(order.status)

    waits = [asyncio.create_task(wait()) for _ in range(10)]
    polling = ground.interval < LONG
    await ground.watcher.reached(
        lambda now: (now.polled == 10 and now.rereads >= 10) if polling else now.armed == 10
    )
    await ground.execute("UPDATE orders SET status = 'paid'")
    assert await asyncio.gather(*waits) == ["paid"] * 10
