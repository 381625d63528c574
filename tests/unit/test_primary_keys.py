"""Primary keys as arguments."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Enum,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Uuid,
    inspect,
)
from sqlalchemy.dialects.postgresql import INET, asyncpg

from rowbell import InvalidKeyError
from rowbell._primary_key import key_names, key_of
from rowbell._watch.rows.mapped_rows import MappedRows
from support.models import Colour, Dog, Order, Seat
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
def test_an_invalid_key_is_refused_at_the_call(model: type[Any], key: Any) -> None:
    with pytest.raises(InvalidKeyError, match=f"is not a key of {model.__name__}"):
        rows_of(model).key(key)


def test_a_uuid_may_be_given_as_text() -> None:
    value = uuid.uuid4()
    assert rows_of(keyed(Uuid())).key(str(value)) == (value,)
    assert rows_of(keyed(Uuid(as_uuid=False))).key(str(value)) == (str(value),)


def test_the_attributes_of_a_key_are_in_the_order_of_the_class() -> None:
    assert key_names(inspect(Seat)) == ("row", "number")
    assert key_names(inspect(Dog)) == ("id",)


@pytest.mark.parametrize("key", [("a", 1), ["a", 1], {"number": 1, "row": "a"}])
def test_a_composite_key_is_a_tuple_a_list_or_a_dict(key: Any) -> None:
    assert rows_of(Seat).key(key) == ("a", 1)


@pytest.mark.parametrize("key", [7, (7,), [7], {"id": 7}])
def test_a_single_key_may_be_given_as_a_composite_one(key: Any) -> None:
    assert rows_of(Order).key(key) == (7,)


BITS = {SmallInteger: 16, Integer: 32, BigInteger: 64}


@pytest.mark.parametrize("type_", BITS)
@given(value=st.integers(-(2**65), 2**65))
def test_an_integer_fits_its_type_on_postgresql_and_any_does_elsewhere(
    type_: type[Any], value: int
) -> None:
    mapper = inspect(keyed(type_()))
    assert key_of(mapper, value, bounded=False) == (value,)
    if -(2 ** (BITS[type_] - 1)) <= value < 2 ** (BITS[type_] - 1):
        assert key_of(mapper, value, bounded=True) == (value,)
    else:
        with pytest.raises(InvalidKeyError, match=f"k0 takes .*, which int {str(value)[:20]}"):
            key_of(mapper, value, bounded=True)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Boolean(), True),
        (Enum(Colour), Colour.RED),
        (Enum("a", "b", name="letter"), "a"),
        (Numeric(), 1),
        (LargeBinary(), memoryview(b"a")),
        (INET(), object()),  # this type validates its values itself
    ],
)
def test_a_value_of_the_columns_type_is_a_key(type_: Any, value: Any) -> None:
    assert rows_of(keyed(type_)).key(value) == (value,)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (("a", 1, 2), r"it takes 2 \(row, number\), not 3"),
        ((), r"it takes 2 \(row, number\), not 0"),
        ({"row": "a", "numbr": 1}, "its attributes are row, number"),
        (("a", "1"), r"number takes Integer\(\), which str '1' is not"),
        ((1, 1), r"row takes String\(\), which int 1 is not"),
    ],
)
def test_the_error_says_which_part_of_a_key_is_wrong(key: Any, why: str) -> None:
    with pytest.raises(InvalidKeyError, match=why):
        rows_of(Seat).key(key)
