"""Conditions: what may change without the row is asked again; the rest is asked when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import (
    DateTime,
    ForeignKey,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import rowbell
from rowbell import (
    InvalidArgumentError,
    InvalidColumnError,
    ListenError,
    Reason,
    RowWatcher,
    Timing,
    WaitTimeoutError,
    wait_for_row_change,
)
from rowbell._watch.condition import varies_by
from support.models import Order
from support.observed import execute
from support.waits import armed_wait


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Offer(Base):
    __tablename__ = "offers"
    id: Mapped[int] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    lines: Mapped[list[Line]] = relationship()
    names: AssociationProxy[list[str]] = association_proxy("lines", "name")


class Line(Base):
    __tablename__ = "offer_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    offer_id: Mapped[int] = mapped_column(ForeignKey("offers.id"))
    name: Mapped[str]


def has_expired(offer: Offer) -> bool:
    return offer.expires_at <= datetime.now(UTC)


@pytest.fixture
async def offers(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return engine


@pytest.mark.parametrize("mode", ["auto", "poll"])
@pytest.mark.parametrize(
    "until", [Offer.expires_at <= func.now(), has_expired], ids=["sql", "function"]
)
async def test_a_condition_that_time_fulfils_ends_the_wait(
    offers: AsyncEngine, mode: str, until: Any
) -> None:
    """Nobody touches the row: woken or polled, the wait ends when the condition holds."""
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    await execute(offers, insert(Offer).values(id=1, expires_at=soon))
    async with RowWatcher(offers, mode=mode, recheck=None) as watcher:
        offer = await watcher.wait_for_change(Offer, 1, until=until, interval=0.1, timeout=20)
    assert datetime.now(UTC) >= soon
    assert offer.expires_at == soon


async def test_an_armed_predicate_is_asked_again_without_a_query(offers: AsyncEngine) -> None:
    asked = asyncio.Event()
    times = 0

    def predicate(_: Offer) -> bool:
        nonlocal times
        times += 1
        if times > 3:
            asked.set()
        return False

    await execute(offers, insert(Offer).values(id=1, expires_at=datetime.now(UTC)))
    async with RowWatcher(offers, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Offer, 1, until=predicate, interval=0.02)
        queries, times = watcher.statistics().queries, 0
        await asked.wait()
        assert watcher.statistics().queries <= queries + 1  # the one that was under way
        wait.cancel()


async def test_a_predicate_is_asked_for_the_last_time_when_the_time_is_over(
    offers: AsyncEngine,
) -> None:
    async with offers.begin() as connection:
        soon = datetime.now(UTC) + timedelta(seconds=0.1)
        await connection.execute(insert(Offer).values(id=1, expires_at=soon))
    async with RowWatcher(offers, mode="poll") as watcher:
        await watcher.wait_for_change(Offer, 1, until=has_expired, interval=60, timeout=0.3)


async def test_why_a_condition_is_polled_is_said(
    offers: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """And refused where polling is."""
    await execute(offers, insert(Offer).values(id=1, expires_at=datetime.now(UTC)))
    until = Offer.expires_at > func.now() + timedelta(days=1)
    with caplog.at_level(logging.WARNING, "rowbell"):
        async with RowWatcher(offers) as watcher:
            wait = asyncio.create_task(watcher.wait_for_change(Offer, 1, until=until))
            await watcher.reached(lambda now: now.reason is Reason.VARYING_CONDITION)
            wait.cancel()
    assert "model Offer, whose condition depends on now()" in caplog.text
    async with RowWatcher(offers, mode="listen") as watcher:
        with pytest.raises(ListenError, match=r"now\(\)") as refused:
            await watcher.wait_for_change(Offer, 1, until=until)
        assert refused.value.reason is Reason.VARYING_CONDITION


OF_THE_ROW: list[Any] = [
    Order.n == 1,
    Order.status.in_(["a", "b"]) & ~(Order.n > 2),
    func.lower(Order.status) == "paid",
    func.coalesce(Order.n, 0) > literal_column("1"),
    Order.n.between(1, 2) | Order.status.like("x%"),
    func.pg_catalog.upper(Order.status) == "X",
    Order.status == "now",
    Order.status.op("~*")("x"),
]
OF_MORE: list[Any] = [
    Order.n > func.random(),
    func.pg_catalog.clock_timestamp() > datetime.now(UTC),
    func.current_timestamp() > datetime.now(UTC),
    and_(Order.n == 1, text("n > random()")),
    Order.n == literal_column("extract(epoch from now())"),
    Order.n == select(func.count()).scalar_subquery(),
    exists(select(1).where(text("true"))),
    Order.n > bindparam("limit", callable_=lambda: 1),
    cast("today", DateTime) > datetime.now(UTC),
    func.mine(Order.n) > 1,
    func.app.lower(Order.status) == "x",
    Order.n.op("<~~>")(1),
    Order.status == cast("today 10:00", DateTime),
    Order.n == literal_column("'now'"),
]


@pytest.mark.parametrize("until", OF_THE_ROW, ids=str)
def test_a_condition_on_the_row_alone_can_be_armed(until: Any) -> None:
    assert varies_by(until) is None


@pytest.mark.parametrize("until", OF_MORE, ids=str)
def test_what_a_condition_depends_on_besides_is_found(until: Any) -> None:
    assert varies_by(until)


async def asked(order: Order) -> bool:
    return bool(order.n)


class Asked:
    async def __call__(self, order: Order) -> bool:
        return bool(order.n)


@pytest.mark.parametrize(
    "until", [asked, partial(asked), Asked()], ids=["function", "partial", "object"]
)
async def test_an_async_function_is_refused_at_the_call(engine: AsyncEngine, until: Any) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match="until must be a plain function"):
            await wait_for_row_change(session, Order, 1, until=until)


@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_function_that_returns_a_coroutine_is_an_error_not_an_answer(
    orders: AsyncEngine, mode: str
) -> None:
    async with RowWatcher(orders, mode=mode) as watcher:
        with pytest.raises(InvalidArgumentError, match="to be awaited"):
            await watcher.wait_for_change(Order, 1, until=lambda order: asked(order))  # noqa: PLW0108


@pytest.mark.parametrize("columns", [[Offer.names], [3], [None], [Offer.lines]])
async def test_what_is_no_column_is_refused_by_name(engine: AsyncEngine, columns: Any) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidColumnError, match="of Offer: it has expires_at, id"):
            await wait_for_row_change(session, Offer, 1, columns=columns)


async def test_times_may_be_timedeltas(orders: AsyncEngine) -> None:
    """As the locks take them."""
    seconds = timedelta(milliseconds=20)
    timing = Timing(heartbeat=timedelta(seconds=1))  # type: ignore[arg-type]
    assert timing.heartbeat == 1.0
    async with RowWatcher(orders, recheck=timedelta(minutes=1)):
        async with AsyncSession(orders) as session:
            with pytest.raises(WaitTimeoutError, match=r"within 0.02s"):
                await wait_for_row_change(session, Order, 1, interval=seconds, timeout=seconds)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("interval", value) for value in (0, -1, float("inf"), float("nan"), "1s", True, None)],
        *[("timeout", value) for value in (-1, float("nan"), "30s", True, timedelta(seconds=-1))],
    ],
)
async def test_times_that_are_none_are_refused_by_name(
    engine: AsyncEngine, argument: str, value: Any
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match=f"^{argument} must be a number of seconds"):
            await wait_for_row_change(session, Order, 1, **{argument: value})


@pytest.mark.parametrize("declare", [rowbell.watched])
def test_a_form_that_is_none_is_refused_by_name(declare: Callable[..., Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="for_each must be 'row' or 'statement'"):
        declare(for_each="rows")


async def test_a_change_still_ends_what_is_asked_again(orders: AsyncEngine) -> None:
    """Armed, a predicate is asked as soon as the row has changed, however long the interval is."""
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, until=lambda order: order.n == 1)
        await execute(orders, update(Order).values(n=1))
        assert (await wait).n == 1
