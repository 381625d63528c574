"""How values of each type are compared, and which values are known without a query."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from rowbell._watch.values.forms import (
    AS_IT_IS,
    AS_TEXT,
    FORMS,
    HASH,
    HASH_OF_ARRAY,
    HASH_OF_PARTS,
    IMAGE,
    UNKNOWN,
    Form,
    Part,
    documents_differ,
    form_of,
)

MIDNIGHT = datetime(2000, 1, 1)  # noqa: DTZ001  # for a column without a time zone
DAY = 86_400_000_000


def given(type_: str, value: object) -> object:
    known = FORMS[type_].given
    assert known is not None
    return known(value)


@pytest.mark.parametrize("value", ["a", b"a", 1, True, None])
def test_a_plain_value_is_read_as_it_was_given(value: object) -> None:
    assert given("text", value) is value


@pytest.mark.parametrize(
    "type_", ["numeric", "float4", "float8", "bpchar", "json", "jsonb", "interval", "time", "point"]
)
def test_what_the_server_may_write_otherwise_is_asked(type_: str) -> None:
    assert FORMS[type_].given is None


@pytest.mark.parametrize(
    ("value", "days"), [(date(2000, 1, 1), 0), (date(2000, 1, 2), 1), (date(1999, 12, 31), -1)]
)
def test_a_date_is_known_as_the_days_since_2000(value: date, days: int) -> None:
    assert given("date", value) == struct.pack("!i", days)


@pytest.mark.parametrize("value", [date.min, date.max, MIDNIGHT, "2000-01-01", None])
def test_a_date_that_may_mean_infinity_or_is_none_is_asked(value: object) -> None:
    assert given("date", value) is UNKNOWN


@pytest.mark.parametrize(
    ("type_", "value", "microseconds"),
    [
        ("timestamp", MIDNIGHT, 0),
        ("timestamp", MIDNIGHT - timedelta(microseconds=1), -1),
        ("timestamp", MIDNIGHT + timedelta(days=2, seconds=1), 2 * DAY + 1_000_000),
        ("timestamptz", MIDNIGHT.replace(tzinfo=UTC), 0),
        ("timestamptz", MIDNIGHT.replace(tzinfo=timezone(timedelta(hours=1))), -DAY // 24),
    ],
)
def test_a_timestamp_is_known_as_the_microseconds_since_2000(
    type_: str, value: datetime, microseconds: int
) -> None:
    assert given(type_, value) == struct.pack("!q", microseconds)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("timestamp", MIDNIGHT.replace(tzinfo=UTC)),
        ("timestamptz", MIDNIGHT),
        ("timestamp", datetime.min),  # noqa: DTZ901
        ("timestamptz", datetime.max.replace(tzinfo=UTC)),
        ("timestamp", date(2000, 1, 1)),
        ("timestamp", "now"),
    ],
)
def test_a_timestamp_of_another_kind_or_an_infinite_one_is_asked(type_: str, value: object) -> None:
    assert given(type_, value) is UNKNOWN


def interval(months: int = 0, days: int = 0, microseconds: int = 0) -> bytes:
    return struct.pack("!qii", microseconds, days, months)


FOREVER = interval(2**31 - 1, 2**31 - 1, 2**63 - 1)


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        (interval(months=12), interval(days=360), False),
        (interval(months=12), interval(days=365), True),
        (interval(days=1), interval(microseconds=DAY), False),
        (interval(days=1, microseconds=-DAY), interval(), False),
        (interval(microseconds=1), interval(), True),
        (FOREVER, interval(-(2**31), -(2**31), -(2**63)), True),
        (FOREVER, interval(2**31 - 1, 2**31 - 1, 2**63 - 2), True),
    ],
)
def test_intervals_differ_by_their_length(before: bytes, after: bytes, differ: bool) -> None:
    """PostgreSQL compares a month as 30 days and a day as 24 hours."""
    compare = FORMS["interval"].differ
    assert compare is not None
    assert compare(before, after) is differ
    assert compare(after, before) is differ


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1.0}', False),
        ("1e2", "100", False),
        ("0.123456789012345678", "0.123456789012345679", True),
        ("1e400", "2e400", True),
        ("true", "1", True),
        ("null", "0", True),
        ("[1, 2]", "[2, 1]", True),
        ('"a"', '"A"', True),
        ("{", "[", True),
        ("[" * 100_000, "[" * 100_001, True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_documents_differ_by_value(before: str, after: str, differ: bool) -> None:
    assert documents_differ(before, after) is differ


def part(name: str, kind: str = "b", *, schema: str = "pg_catalog", **more: Any) -> Part:
    return Part(schema, name, kind, **{"is_array": False, "is_sent": True, **more})


INT, NUMERIC, TEXT = part("int4"), part("numeric"), part("text")
BIGINT, JSONB, INTERVAL = part("int8"), part("jsonb"), part("interval")
CITEXT = part("citext", schema="public")
PAIR = part("pair", "c", schema="public")


def array(of: Part) -> Part:
    return part(f"_{of.name}", is_array=True)


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        ([TEXT], FORMS["text"]),
        ([part("text", schema="mine")], IMAGE),  # a type of the same name in another schema
        ([part("mood", "e", schema="public")], AS_IT_IS),
        ([CITEXT], HASH),
        ([part("gone", schema="public", is_sent=False)], AS_TEXT),
        ([array(INT), INT], IMAGE),
        ([array(NUMERIC), NUMERIC], HASH_OF_ARRAY),
        ([array(CITEXT), CITEXT], HASH_OF_ARRAY),
        ([array(JSONB), JSONB], IMAGE),
        ([array(INTERVAL), INTERVAL], IMAGE),
        ([array(part("odd")), part("odd", is_sent=False)], AS_TEXT),
        ([part("floats", "r", schema="public"), part("float8")], HASH_OF_PARTS),
        ([PAIR, NUMERIC, TEXT], HASH_OF_PARTS),
        ([PAIR, INT, TEXT], IMAGE),
        ([PAIR, NUMERIC, BIGINT], IMAGE),  # some different bigints have the same hash
        ([PAIR, array(NUMERIC), NUMERIC], IMAGE),  # a hash does not show array bounds inside
    ],
)
def test_a_type_is_read_so_that_its_distinct_values_differ(parts: list[Part], form: Form) -> None:
    assert form_of(*parts) is form
