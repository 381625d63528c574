"""Which conditions may change without their row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import DateTime, and_, bindparam, cast, exists, func, literal_column, select, text

from rowbell._watch.condition import varies_by
from support.models import Order

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
