"""Values are compared in Python like IS DISTINCT FROM compares them in SQL."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.values.distinct import is_distinct

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_a_value_is_not_distinct_from_itself(value: object) -> None:
    assert not is_distinct(value, value)


@given(JSON, JSON)
def test_being_distinct_is_mutual(one: object, other: object) -> None:
    assert is_distinct(one, other) == is_distinct(other, one)


class NoTruth:
    """A value that compares like the arrays of some libraries: ``==`` gives no bool."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("before", "after", "distinct"),
    [
        (None, None, False),
        (None, 0, True),
        (float("nan"), float("nan"), False),
        (Decimal("NaN"), Decimal("NaN"), False),
        (Decimal("sNaN"), Decimal(1), True),
        (Decimal("1.0"), Decimal("1.00"), False),
        ({"a": True}, {"a": 1}, True),
        ([1, [2]], (1, (2,)), False),
        ([1], [1, 1], True),
        ({"a": 1}, {"b": 1}, True),
        (NoTruth(1), NoTruth(1), False),
        (NoTruth(1), NoTruth(2), True),
    ],
)
def test_values_compare_as_is_distinct_from(before: object, after: object, distinct: bool) -> None:
    assert is_distinct(before, after) is distinct
