"""Primary keys as they are given."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any

import pytest
from sqlalchemy import DateTime, Uuid
from sqlalchemy.dialects.postgresql import asyncpg

from rowbell import InvalidKeyError
from rowbell._watch.rows.mapped_rows import MappedRows
from support.models import Order, Seat
from support.tables import keyed


def rows_of(model: type[Any]) -> MappedRows:
    return MappedRows.of(model, asyncpg.dialect(), None)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Order, "1"),
        (Order, 1.0),
        (Order, None),
        (Order, (1, 2)),
        (Order, 2**31),
        (Order, {"number": 1}),
        (Seat, "a"),
        (Seat, ("a", "b")),
        (Seat, {"row": "a"}),
        (keyed(Uuid()), "no uuid"),
        (keyed(DateTime()), date(2026, 1, 1)),
    ],
)
def test_what_is_no_key_is_refused_at_the_call(model: type[Any], key: Any) -> None:
    with pytest.raises(InvalidKeyError, match=f"is no key of {model.__name__}"):
        rows_of(model).key(key)


def test_a_uuid_may_be_given_as_text() -> None:
    value = uuid.uuid4()
    assert rows_of(keyed(Uuid())).key(str(value)) == (value,)
