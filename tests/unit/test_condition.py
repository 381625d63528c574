"""Which conditions may change their result although the row stays the same."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import (
    ColumnElement,
    DateTime,
    and_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import asyncpg

from rowbell import InvalidArgumentError, InvalidColumnError
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell._watch.until import checked_condition, condition_key, varies_by
from support.models import Item, Order


class Own(ColumnElement[bool]):
    """A SQL element that the application defines."""

    inherit_cache = True


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
OF_MORE: list[tuple[Any, str]] = [
    (Order.n > func.random(), "random()"),
    (func.pg_catalog.clock_timestamp() > datetime.now(UTC), "clock_timestamp()"),
    (func.current_timestamp() > datetime.now(UTC), "current_timestamp()"),
    (and_(Order.n == 1, text("n > random()")), "n > random()"),
    (Order.n == literal_column("extract(epoch from now())"), "extract(epoch from now())"),
    (Order.n == select(func.count()).scalar_subquery(), "a subquery"),
    (exists(select(1).where(text("true"))), "a subquery"),
    (Order.n > bindparam("limit", callable_=lambda: 1), "None"),
    (cast("today", DateTime) > datetime.now(UTC), "'today'"),
    (func.mine(Order.n) > 1, "mine()"),
    (func.app.lower(Order.status) == "x", "lower()"),
    (Order.n.op("<~~>")(1), "<~~>"),
    (Order.status == cast("today 10:00", DateTime), "'today 10:00'"),
    (Order.n == literal_column("'now'"), "'now'"),
]


@pytest.mark.parametrize("until", OF_THE_ROW, ids=str)
def test_a_condition_on_the_row_alone_can_be_armed(until: Any) -> None:
    assert varies_by(until) is None


@pytest.mark.parametrize(("until", "found"), OF_MORE, ids=str)
def test_what_a_condition_depends_on_besides_is_found(until: Any, found: str) -> None:
    assert varies_by(until) == found


def test_an_element_of_the_applications_own_is_not_trusted() -> None:
    assert varies_by(Own()) == "Own"


@pytest.mark.parametrize("until", [None, lambda order: order.n], ids=["nothing", "a function"])
def test_a_function_is_not_looked_into(until: Any) -> None:
    assert varies_by(until) is None


def orders() -> MappedRows:
    return MappedRows.of(Order, asyncpg.dialect(), None)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("until", [None, Order.n == 1, bool])
def test_a_condition_is_nothing_sql_or_a_function(until: Any) -> None:
    assert checked_condition(orders(), until) is until


def test_an_attribute_alone_is_a_condition() -> None:
    assert isinstance(checked_condition(orders(), Order.n), ColumnElement)


async def later(order: Order) -> bool:
    return bool(order.n)


@pytest.mark.parametrize("until", ["n = 1", 1, object(), later, partial(later)], ids=type)
def test_what_is_no_condition_is_refused(until: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="until must be a plain function"):
        checked_condition(orders(), until)


def test_a_condition_on_another_class_is_refused() -> None:
    with pytest.raises(InvalidColumnError, match=r"'items\.name' in until= is not"):
        checked_condition(orders(), Item.name == "x")


def test_conditions_that_say_the_same_have_one_key() -> None:
    rows = orders()
    one, same, other = (condition_key(rows, Order.n == n) for n in (1, 1, 2))
    assert one == same
    assert one != other
    assert condition_key(rows, None) is condition_key(rows, bool) is None


def test_a_condition_with_a_value_that_has_no_hash_is_its_own_key() -> None:
    rows, until = orders(), Order.status.in_([["a"]])
    assert condition_key(rows, until) == condition_key(rows, until)
    assert condition_key(rows, until) != condition_key(rows, Order.status.in_([["a"]]))
