"""Many waits cost few statements and few connections: counted, not timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Integer,
    Numeric,
    String,
    TypeDecorator,
    Uuid,
    event,
    func,
    insert,
    inspect,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from rowbell import RowWatcher, wait_for_row_change, watched
from rowbell._watch.reading.batch import SLICE
from rowbell._watch.request import WaitRequest
from rowbell._watch.rows.instances import Instances
from rowbell._watch.rows.since import Since
from support.models import Animal, Colour, Odd, Order, Sealed, SealedType
from support.observed import everything_sent, execute
from support.waits import armed_wait

WAITS = 2_000


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, WAITS + 1)]


async def test_waits_that_begin_at_once_are_armed_in_batches_and_woken_in_batches(
    orders: AsyncEngine,
) -> None:
    """Of all connections together: a handful of statements to arm, and a handful to wake."""
    with everything_sent(orders) as sent:
        async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
            sent.clear()
            waits = [
                asyncio.create_task(watcher.wait_for_change(Order, key, since={"n": 0}))
                for key in range(1, WAITS + 1)
            ]
            await watcher.reached(lambda now: now.armed == WAITS)
            assert len(sent) <= 18
            sent.clear()
            await execute(orders, update(Order).values(n=1))
            assert [order.n for order in await asyncio.gather(*waits)] == [1] * WAITS
            assert len(sent) <= 8


@pytest.mark.parametrize("until", [None, lambda order: order.n == 1], ids=["values", "orm"])
async def test_the_event_loop_goes_on_while_thousands_of_rows_are_looked_at(
    orders: AsyncEngine, until: Callable[[Order], bool] | None
) -> None:
    """Whatever else an application does there waits for a few hundred rows at most."""
    turn, ended = 0, Counter[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)  # one turn of the loop
            turn += 1

    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, key, until=until))
            for key in range(1, WAITS + 1)
        ]
        for wait in waits:
            wait.add_done_callback(lambda _: ended.update([turn]))
        await watcher.reached(lambda now: now.armed == WAITS)
        turns = asyncio.create_task(count_turns())
        await execute(orders, update(Order).values(n=1))
        await asyncio.wait(waits)
        turns.cancel()
    assert ended.total() == WAITS
    assert max(ended.values()) <= SLICE


async def test_a_session_of_ones_own_costs_no_statement(orders: AsyncEngine) -> None:
    """The instance that the read brought becomes the session's."""

    async def one(key: int) -> int:
        async with AsyncSession(orders) as session:
            order = await wait_for_row_change(session, Order, key)
            assert order in session
            return order.n

    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        waits = [asyncio.create_task(one(key)) for key in range(1, WAITS + 1)]
        await watcher.reached(lambda now: now.armed == WAITS)
        with everything_sent(orders) as sent:
            await execute(orders, update(Order).values(n=1))
            assert sum(await asyncio.gather(*waits)) == WAITS
        assert len(sent) <= 8


@pytest.mark.fault("B35")
async def test_after_a_lost_connection_all_rows_are_read_and_registered_in_batches(
    orders: AsyncEngine,
) -> None:
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'rowbell%'"
    )
    with everything_sent(orders) as sent:
        async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
            waits = [
                asyncio.create_task(watcher.wait_for_change(Order, key, interval=60))
                for key in range(1, WAITS + 1)
            ]
            await watcher.reached(lambda now: now.armed == WAITS)
            sent.clear()
            async with orders.begin() as connection:
                assert await connection.scalar(kill) == 1
                await connection.execute(update(Order).where(Order.id == 1).values(n=1))
            assert (await waits[0]).n == 1
            await watcher.reached(lambda now: now.armed == WAITS - 1)
            assert len(sent) <= 100
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)


async def test_waits_that_begin_at_once_take_no_connection_each(engine: AsyncEngine) -> None:
    """Not even where only the server knows how a read returns what `since` gives."""
    keys = [uuid4() for _ in range(100)]
    async with engine.begin() as connection:
        await connection.execute(insert(Odd), [{"Id": key, "amount": 1} for key in keys])
    opened: list[object] = []
    event.listen(engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
    async with RowWatcher(engine, mode="listen", recheck=None) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Odd, key, since={"amount": Decimal("1.0")}))
            for key in keys
        ]
        await watcher.reached(lambda now: now.armed == len(keys))
        assert len(opened) <= 8
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


async def test_one_bad_row_of_thousands_is_found_in_few_reads(orders: AsyncEngine) -> None:
    """By halves: the others go on, and it alone fails."""
    async with RowWatcher(orders, mode="poll") as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(
                    Order, key, interval=3600, until=Order.n / (Order.id - 1000) > 0
                )
            )
            for key in range(1, WAITS + 1)
        ]
        with pytest.raises(Exception, match="division by zero"):
            await waits[999]
        assert watcher.statistics().queries < 60
        assert sum(wait.done() for wait in waits) == 1
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


# -- instances made of values


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)


@watched
class Rich(Base):
    """A type of each kind that SQLAlchemy makes something of."""

    __tablename__ = "rich"
    part: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column("No", primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    rounded: Mapped[float | None] = mapped_column(Numeric(10, 2, asdecimal=False))
    ratio: Mapped[float | None]
    colour: Mapped[Colour | None]
    secret: Mapped[Sealed | None] = mapped_column(SealedType)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    token: Mapped[UUID | None]
    owner: Mapped[Owner | None] = relationship()


@pytest.fixture
async def rich(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Owner).values(id=3))
        await connection.execute(
            insert(Rich).values(
                part="a",
                number=1,
                owner_id=3,
                price=Decimal("1.50"),
                rounded=2.5,
                ratio=0.1,
                colour=Colour.RED,
                secret=Sealed("x"),
                data={"a": [1, None]},
                at=datetime(2026, 1, 2, tzinfo=UTC),
                token=UUID(int=7),
            )
        )
    return engine


async def test_an_instance_made_of_values_is_as_the_orm_would_have_loaded_it(
    rich: AsyncEngine,
) -> None:
    async with RowWatcher(rich, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Rich, ("a", 1), columns=["n"])
        with everything_sent(rich) as sent:
            await execute(rich, update(Rich).values(n=1))
            made = await wait
        # The one read that compares brings what the instance is made of.
        assert [statement.count("FROM unnest") for statement in sent if "rich" in statement] == [
            0,
            1,
        ]
    async with AsyncSession(rich) as session:
        loaded = await session.get_one(Rich, ("a", 1))
        for attribute in inspect(Rich).column_attrs.keys():  # noqa: SIM118  # not a dict's
            ours, theirs = getattr(made, attribute), getattr(loaded, attribute)
            assert type(ours) is type(theirs)
            assert attribute == "secret" or ours == theirs
        assert made.secret is not None
        assert made.secret.text == "x"
        assert inspect(made).detached
        assert inspect(made).identity == ("a", 1)
        assert not inspect(made).modified
        session.expunge_all()
        session.add(made)
        assert not session.dirty
        owner = await session.run_sync(lambda _: made.owner)
        assert owner is not None
        assert owner.id == 3
        made.n = 5
        await session.commit()
    async with AsyncSession(rich) as session:
        assert (await session.get_one(Rich, ("a", 1))).n == 5


async def test_who_listens_to_loading_hears_of_it(rich: AsyncEngine) -> None:
    """A class of which more is expected than columns is loaded by the ORM."""
    assert Instances.can_make(inspect(Rich))
    assert not Instances.can_make(inspect(Animal))
    assert not Instances.can_make(inspect(Odd))
    heard: list[Any] = []

    def load(instance: Any, _: object) -> None:
        heard.append(instance)

    event.listen(Owner, "load", load)
    try:
        async with RowWatcher(rich, mode="poll") as watcher:
            owner = await watcher.wait_for_change(Owner, 3, until=Owner.id == 3)
        assert not Instances.can_make(inspect(Owner))
        assert heard == [owner]
    finally:
        event.remove(Owner, "load", load)


class Shouted(TypeDecorator[str]):
    """Selected through an expression, as encrypted columns are."""

    impl = String
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.upper(column)


def test_a_type_that_is_selected_through_an_expression_is_loaded_by_the_orm() -> None:
    class Own(DeclarativeBase):
        pass

    class Crier(Own):
        __tablename__ = "criers"
        id: Mapped[int] = mapped_column(primary_key=True)
        cry: Mapped[str] = mapped_column(Shouted)

    assert not Instances.can_make(inspect(Crier))


# -- what is known without asking


class Given(Base):
    __tablename__ = "given"
    id: Mapped[int] = mapped_column(primary_key=True)
    whole: Mapped[Any] = mapped_column(Integer)
    big: Mapped[Any] = mapped_column(BigInteger)
    words: Mapped[Any] = mapped_column(String)
    short: Mapped[Any] = mapped_column(String(5))
    padded: Mapped[Any] = mapped_column(CHAR(5))
    yes: Mapped[Any] = mapped_column(Boolean)
    key: Mapped[Any] = mapped_column(Uuid)
    day: Mapped[Any] = mapped_column(Date)
    at: Mapped[Any] = mapped_column(DateTime(timezone=True))
    local: Mapped[Any] = mapped_column(DateTime)
    seconds: Mapped[Any] = mapped_column(TIMESTAMP(precision=0))
    varied: Mapped[Any] = mapped_column(String().with_variant(CHAR(5), "postgresql"))
    money: Mapped[Any] = mapped_column(Numeric(10, 2))
    ratio: Mapped[Any] = mapped_column(Float(24))
    colour: Mapped[Any] = mapped_column(Enum(Colour))


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  # of a column without a time zone
KNOWN: dict[str, list[object]] = {
    "whole": [0, -5, 2**31 - 1, None],
    "big": [2**62],
    "words": ["", "é", "x" * 9000, None],
    "short": ["", "12345"],
    "yes": [True, False],
    "key": [UUID(int=7)],
    "day": [date(2026, 1, 2)],
    "at": [NOW.replace(tzinfo=UTC)],
    "local": [NOW],
}
ASKED: dict[str, list[object]] = {
    "whole": [True],
    "padded": ["a"],
    "at": [NOW, NOW.replace(tzinfo=ZoneInfo("Europe/Berlin"))],
    "seconds": [NOW],
    "varied": ["ab"],
    "money": [Decimal("1.005")],
    "ratio": [0.1],
    "colour": [Colour.RED],
}


def given(engine: AsyncEngine, name: str, value: object) -> WaitRequest:
    return WaitRequest.of(
        engine.dialect,
        None,
        Given,
        1,
        columns=[name],
        interval=1,
        timeout=None,
        until=None,
        since={name: value},
        options=(),
    )


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in KNOWN.items() for value in values]
)
async def test_what_is_known_without_asking_is_what_the_server_would_have_said(
    engine: AsyncEngine, name: str, value: object
) -> None:
    request = given(engine, name, value)
    assert request.since is not None
    async with engine.begin() as connection:
        await connection.run_sync(Given.metadata.create_all)
        await connection.run_sync(request.rows.forms.learn, [name])
        asked = await connection.run_sync(Since.asked, [request.since])
    assert [request.since.known] == asked


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ASKED.items() for value in values]
)
async def test_what_the_server_may_change_is_asked(
    engine: AsyncEngine, name: str, value: object
) -> None:
    request = given(engine, name, value)
    assert request.since is not None
    async with engine.begin() as connection:
        await connection.run_sync(Given.metadata.create_all)
        await connection.run_sync(request.rows.forms.learn, [name])
    assert request.since.known is None
