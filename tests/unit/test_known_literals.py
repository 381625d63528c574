"""Which values PostgreSQL returns unchanged, so that no query is needed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
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
    Float,
    Integer,
    Numeric,
    String,
    Text,
    Uuid,
)

from rowbell._watch.values.literal import is_read_as_given
from support.models import SealedType

NOW = datetime(2026, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001  # for a column without a time zone


class Name(str, Enum):  # noqa: UP042  # applications still write it like this
    ANN = "ann"


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Integer(), 5),
        (BigInteger(), 2**62),
        (String(), "x" * 9_000),
        (String(5), "12345"),
        (Text(), ""),
        (Boolean(), False),
        (Uuid(), UUID(int=7)),
        (Date(), date(2026, 1, 2)),
        (DateTime(), NOW),
        (DateTime(timezone=True), NOW.replace(tzinfo=UTC)),
        (DateTime(timezone=True), NOW.replace(tzinfo=timezone(timedelta(hours=5)))),
        (Numeric(10, 2), None),
    ],
)
def test_a_plain_value_is_returned_as_it_is(type_: Any, value: object) -> None:
    assert is_read_as_given(type_, value)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Integer(), True),
        (Integer(), 5.0),
        (String(5), "123456"),
        (String(), Name.ANN),
        (String().with_variant(CHAR(5), "postgresql"), "ab"),
        (CHAR(5), "a"),
        (Boolean(), 1),
        (Uuid(), str(UUID(int=7))),
        (Uuid(as_uuid=False), str(UUID(int=7))),
        (Uuid(native_uuid=False), UUID(int=7)),
        (Date(), NOW),
        (DateTime(), NOW.replace(tzinfo=UTC)),
        (DateTime(timezone=True), NOW),
        (DateTime(timezone=True), NOW.replace(tzinfo=ZoneInfo("Europe/Berlin"))),
        (Numeric(10, 2), Decimal("1.00")),
        (Float(), 0.1),
        (SealedType(), "a"),
    ],
)
def test_what_may_be_rounded_padded_or_converted_is_asked(type_: Any, value: object) -> None:
    assert not is_read_as_given(type_, value)
