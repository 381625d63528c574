"""``lock_rows`` returns current rows, locked in one global order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import URL, ForeignKey, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell import (
    InvalidArgumentError,
    InvalidKeyError,
    LockTimeoutError,
    NotFoundError,
    SessionStateError,
    UnmappedModelError,
    advisory_lock,
    lock_rows,
    lock_tables,
)
from support.models import Animal, Dog, Item, Order, Seat
from support.observed import blocked, execute, statements

pytestmark = pytest.mark.usefixtures("orders")


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, 11)]


async def test_the_rows_are_locked_until_the_transaction_ends(
    session: AsyncSession, other: AsyncSession
) -> None:
    locked = await lock_rows(session, Order, [3, 1, 3])
    assert [order.id for order in locked] == [1, 3]
    with pytest.raises(
        LockTimeoutError, match=r"FOR UPDATE lock on Order\(id=1\), Order"
    ) as caught:
        await lock_rows(other, Order, [1, 2], timeout="20ms")
    assert caught.value.objects == ("Order(id=1)", "Order(id=2)")
    assert [order.id for order in await lock_rows(other, Order, [2], nowait=True)] == [2]
    await session.commit()
    assert len(await lock_rows(other, Order, [1, 2, 3], nowait=True)) == 3


async def test_what_was_read_before_is_read_again(
    session: AsyncSession, other: AsyncSession
) -> None:
    """A plain FOR UPDATE in the ORM would not refresh an instance that is already loaded."""
    seen = await session.get_one(Order, 1)
    await other.execute(update(Order).where(Order.id == 1).values(n=5))
    await other.commit()
    [locked] = await lock_rows(session, Order, [1])
    assert locked is seen
    assert seen.n == 5


async def test_it_waits_and_then_sees_what_it_waited_for(
    orders: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    await other.execute(update(Order).where(Order.id == 1).values(n=7))
    task = asyncio.create_task(lock_rows(session, Order, [1], timeout=30))
    await blocked(orders)
    await other.commit()
    assert [order.n for order in await task] == [7]


async def test_pending_changes_are_flushed_first_and_survive_a_failure(
    session: AsyncSession, other: AsyncSession
) -> None:
    await lock_rows(other, Order, [2])
    (await session.get_one(Order, 1)).n = 9
    session.add(Order(id=99))
    with pytest.raises(LockTimeoutError):
        await lock_rows(session, Order, [1, 2], nowait=True)
    [mine] = await lock_rows(session, Order, [1])
    assert mine.n == 9
    await session.commit()
    assert (await other.get_one(Order, 1)).n == 9
    assert await other.get(Order, 99) is not None


async def test_without_autoflush_pending_changes_are_not_overwritten(
    session: AsyncSession,
) -> None:
    with session.no_autoflush:
        (await session.get_one(Order, 1)).n = 9
        await lock_rows(session, Order, [2])
        with pytest.raises(SessionStateError, match=r"Order\(id=1\) has changes"):
            await lock_rows(session, Order, [1])


async def test_skip_locked_leaves_out_what_others_have(
    session: AsyncSession, other: AsyncSession
) -> None:
    await lock_rows(other, Order, [1, 2])
    rest = await lock_rows(session, Order, [1, 2, 3, 77], skip_locked=True)
    assert [order.id for order in rest] == [3]


async def test_a_row_that_does_not_exist_is_an_error_that_names_it(session: AsyncSession) -> None:
    with pytest.raises(NotFoundError, match=r"Order\(id=77\) not found"):
        await lock_rows(session, Order, [1, 77])
    assert await lock_rows(session, Order, []) == []


MODES = [
    ({}, "FOR UPDATE"),
    ({"key_share": True}, "FOR NO KEY UPDATE"),
    ({"read": True}, "FOR SHARE"),
    ({"read": True, "key_share": True}, "FOR KEY SHARE"),
]


@pytest.mark.parametrize(("options", "mode"), MODES)
async def test_each_mode_conflicts_as_the_manual_says(
    session: AsyncSession, other: AsyncSession, options: dict[str, bool], mode: str
) -> None:
    """See table 13.3 of the PostgreSQL manual. The modes go from the strongest to the weakest."""
    conflicts = {
        "FOR UPDATE": {"FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE", "FOR KEY SHARE"},
        "FOR NO KEY UPDATE": {"FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE"},
        "FOR SHARE": {"FOR UPDATE", "FOR NO KEY UPDATE"},
        "FOR KEY SHARE": {"FOR UPDATE"},
    }
    await lock_rows(session, Order, [1], **options)
    refused: set[str] = set()
    allowed: set[str] = set()
    for wanted, name in MODES:
        try:
            await lock_rows(other, Order, [1], nowait=True, **wanted)
        except LockTimeoutError as error:
            refused.add(error.mode)
        else:
            allowed.add(name)
        await other.rollback()
    assert refused == conflicts[mode]
    assert allowed == conflicts["FOR UPDATE"] - refused


async def test_two_callers_in_different_orders_do_not_deadlock(orders: AsyncEngine) -> None:
    async def add(keys: list[int]) -> None:
        for _ in range(30):
            async with AsyncSession(orders) as session:
                for order in await lock_rows(session, Order, keys):
                    order.n += 1
                await session.commit()

    await asyncio.gather(add([1, 2, 3]), add([3, 2, 1]), add([2, 3, 1]))
    async with AsyncSession(orders) as session:
        assert {order.n for order in await lock_rows(session, Order, [1, 2, 3])} == {90}


async def test_row_locks_in_two_orders_deadlock(orders: AsyncEngine) -> None:
    """Plain FOR UPDATE statements deadlock here. ``lock_rows`` does not, because of its order."""
    both_hold_one = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with AsyncSession(orders) as session:
            await session.get(Order, first, with_for_update=True)
            await both_hold_one.wait()
            await session.get(Order, second, with_for_update=True)

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)
    [victim] = [outcome for outcome in outcomes if outcome]
    assert "deadlock detected" in str(victim)


async def test_composite_keys_and_inheriting_models_are_locked(
    orders: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    session.add_all([Seat(row="a", number=1), Seat(row="a", number=2), Dog(id=1, name="Rex")])
    await session.commit()
    seats = await lock_rows(session, Seat, [{"row": "a", "number": 2}, ("a", 1)])
    assert [seat.number for seat in seats] == [1, 2]
    [dog] = await lock_rows(session, Dog, [1])
    assert dog.name == "Rex"
    with pytest.raises(LockTimeoutError):
        await lock_rows(other, Animal, [1], nowait=True)
    await other.rollback()
    with pytest.raises(LockTimeoutError, match="Seat"):
        await lock_rows(other, Seat, [("a", 1)], nowait=True)


async def test_a_class_that_loads_its_subclasses_along_is_locked(
    engine: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    """Subclasses are loaded by an outer join, and PostgreSQL cannot lock its nullable side."""
    async with engine.begin() as connection:
        await connection.run_sync(Shape.metadata.create_all)
    session.add_all([Circle(id=1), Shape(id=2)])
    await session.commit()
    shapes = await lock_rows(session, Shape, [1, 2])
    assert [type(shape) for shape in shapes] == [Circle, Shape]
    with pytest.raises(LockTimeoutError):
        await lock_rows(other, Shape, [2], nowait=True)


class ShapeBase(DeclarativeBase):
    pass


class Shape(ShapeBase):
    __tablename__ = "shapes"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {
        "polymorphic_on": "kind",
        "polymorphic_identity": "shape",
        "with_polymorphic": "*",
    }


class Circle(Shape):
    __tablename__ = "circles"
    id: Mapped[int] = mapped_column(ForeignKey("shapes.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "circle"}


async def test_rows_that_are_loaded_along_are_not_locked(
    session: AsyncSession, other: AsyncSession
) -> None:
    session.add(Item(id=1, order_id=1))
    await session.commit()
    await lock_rows(session, Order, [1])
    assert len(await lock_rows(other, Item, [1], nowait=True)) == 1


async def test_the_callers_lock_timeout_is_back_and_the_transaction_goes_on(
    session: AsyncSession, other: AsyncSession
) -> None:
    await lock_rows(other, Order, [1])
    await session.execute(text("SET LOCAL lock_timeout = '7s'"))
    await session.execute(update(Order).where(Order.id == 5).values(n=5))
    with pytest.raises(LockTimeoutError):
        await lock_rows(session, Order, [1], timeout=0.01)
    await lock_rows(session, Order, [2], timeout=0.01)
    assert await session.scalar(text("SHOW lock_timeout")) == "7s"
    await session.commit()
    assert (await session.get_one(Order, 5)).n == 5


async def test_as_many_rows_are_locked_as_a_statement_can_name(
    orders: AsyncEngine, session: AsyncSession
) -> None:
    await execute(
        orders, "INSERT INTO orders SELECT i, '', '', 0 FROM generate_series(11, 32767) AS i"
    )
    assert len(await lock_rows(session, Order, range(1, 32_768))) == 32_767
    with pytest.raises(InvalidArgumentError, match="at most 32767 keys"):
        await lock_rows(session, Order, range(1, 32_769))
    async with orders.begin() as connection:
        await connection.execute(
            insert(Seat), [{"row": "a", "number": number} for number in range(1_000)]
        )
    assert len(await lock_rows(session, Seat, [("a", n) for n in range(1_000)])) == 1_000
    with pytest.raises(InvalidArgumentError, match="at most 1000 keys"):
        await lock_rows(session, Seat, [("a", number) for number in range(1_001)])


@pytest.mark.parametrize(
    ("model", "pks", "options", "error"),
    [
        (object, [1], {}, UnmappedModelError),
        (Order, ["1"], {}, InvalidKeyError),
        (Order, [(1, 2)], {}, InvalidKeyError),
        (Order, [None], {}, InvalidKeyError),
        (Order, [1], {"nowait": True, "timeout": 1}, InvalidArgumentError),
        (Order, [1], {"nowait": True, "skip_locked": True}, InvalidArgumentError),
        (Order, [1], {"timeout": "1s; DROP TABLE orders"}, InvalidArgumentError),
    ],
)
async def test_bad_input_is_refused_and_nothing_is_sent(
    orders: AsyncEngine,
    session: AsyncSession,
    model: Any,
    pks: Any,
    options: Any,
    error: type[Exception],
) -> None:
    with statements(orders) as sent, pytest.raises(error):
        await lock_rows(session, model, pks, **options)
    assert not sent


async def test_autocommit_is_refused(orders: AsyncEngine) -> None:
    async with AsyncSession(orders.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with pytest.raises(SessionStateError, match="AUTOCOMMIT"):
            await lock_rows(session, Order, [1])


async def test_a_frozen_snapshot_is_the_servers_own_error(
    orders: AsyncEngine, other: AsyncSession
) -> None:
    """In REPEATABLE READ, PostgreSQL refuses to lock a row that has changed since the snapshot."""
    frozen = orders.execution_options(isolation_level="REPEATABLE READ")
    async with AsyncSession(frozen) as session:
        await session.scalars(select(Order))
        await other.execute(update(Order).where(Order.id == 1).values(n=1))
        await other.commit()
        with pytest.raises(DBAPIError, match="could not serialize"):
            await lock_rows(session, Order, [1])


@pytest.fixture
async def hurried(engine: AsyncEngine, database: URL) -> AsyncIterator[AsyncEngine]:
    """An engine with a statement timeout of 200 ms. Another transaction holds all the locks."""
    settings = {"server_settings": {"statement_timeout": "200ms"}}
    hurried = create_async_engine(database, connect_args=settings)
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        await holder.execute(text("SELECT pg_advisory_xact_lock(7)"))
        yield hurried
    await hurried.dispose()


async def lock_a_row(session: AsyncSession, limit: Any) -> None:
    await lock_rows(session, Order, [1], timeout=limit)


async def lock_a_table(session: AsyncSession, limit: Any) -> None:
    async with lock_tables(session, [Order], timeout=limit):
        pass


async def lock_a_key(session: AsyncSession, limit: Any) -> None:
    async with advisory_lock(session, 7, timeout=limit, transaction=True):
        pass


@pytest.mark.parametrize("limit", [5, None])
@pytest.mark.parametrize("lock", [lock_a_row, lock_a_table, lock_a_key])
async def test_a_shorter_statement_timeout_is_a_lock_timeout_that_says_so(
    hurried: AsyncEngine, lock: Any, limit: Any
) -> None:
    """The outer transaction stays usable."""
    async with AsyncSession(hurried) as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(LockTimeoutError, match="statement timeout") as caught:
            await lock(session, limit)
        assert caught.value.cancelled
        assert await session.scalar(text("SELECT 1")) == 1


async def test_a_session_that_begins_nothing_is_refused_with_the_way_out(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine, autobegin=False) as session:
        with pytest.raises(SessionStateError, match="autobegin=False"):
            await lock_rows(session, Order, [1])
        with pytest.raises(SessionStateError, match="autobegin=False"):
            async with advisory_lock(session, 7):
                pass
        async with lock_tables(session, [Order]):  # opens its own transaction
            assert session.in_transaction()
