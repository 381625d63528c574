"""Invalid arguments are refused at the call, and the error names them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import URL, ColumnElement, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

import rowbell
from rowbell import (
    InvalidArgumentError,
    InvalidColumnError,
    RowWatcher,
    Timing,
    UnmappedModelError,
    UnsupportedEngineError,
    WaitTimeoutError,
    wait_for_row_change,
)
from support.models import Base, Item, Order
from support.offers import Offer


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


async def test_a_coroutine_function_is_refused_as_a_predicate(engine: AsyncEngine) -> None:
    async def until(order: Order) -> bool:
        return bool(order)

    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match="until"):
            await wait_for_row_change(session, Order, 1, until=until)


async def test_a_single_name_is_refused_as_a_list_of_columns(engine: AsyncEngine) -> None:
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
        with pytest.raises(InvalidArgumentError, match="an awaitable"):
            await watcher.wait_for_change(Order, 1, until=lambda order: asked(order))  # noqa: PLW0108


@pytest.mark.parametrize("columns", [[Offer.names], [3], [None], [Offer.lines]])
async def test_an_invalid_column_is_refused_by_name(engine: AsyncEngine, columns: Any) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidColumnError, match="of Offer: it has expires_at, id"):
            await wait_for_row_change(session, Offer, 1, columns=columns)


async def test_times_may_be_timedeltas(orders: AsyncEngine) -> None:
    """The locks accept them too."""
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
async def test_invalid_times_are_refused_by_name(
    engine: AsyncEngine, argument: str, value: Any
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidArgumentError, match=f"^{argument} must be a number of seconds"):
            await wait_for_row_change(session, Order, 1, **{argument: value})


@pytest.mark.parametrize("declare", [rowbell.watched])
def test_an_invalid_form_is_refused_by_name(declare: Callable[..., Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="for_each must be 'row' or 'statement'"):
        declare(for_each="rows")
