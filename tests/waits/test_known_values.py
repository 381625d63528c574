"""Values of ``since`` are compared without a query, if a query would give the same result."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import (
    CHAR,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Numeric,
    String,
    Uuid,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell._watch.request import WaitRequest
from rowbell._watch.rows.since import Since
from support.models import Colour


class Base(DeclarativeBase):
    pass


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


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  # for a column without a time zone
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
        engine.dialect, None, Given, 1, {"columns": [name], "since": {name: value}}
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
