"""The parts that need no database."""

from __future__ import annotations

import asyncio
import math
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rowbell
from rowbell import Timing
from rowbell._identifiers import quote_identifier
from rowbell._watch.board.registrations import Interest
from rowbell._watch.board.schedule import Schedule
from rowbell._watch.board.throttle import ALLOWANCE, LONGEST, ROWS_PER_SECOND, TOGETHER, Throttle
from rowbell._watch.database.payload import Notification, decode
from rowbell._watch.timing import Backoff
from rowbell._watch.values.distinct import is_distinct


class Due:
    due = math.inf


TIMES = st.integers(0, 12).map(float) | st.just(math.inf)


@given(
    st.lists(st.tuples(st.integers(0, 90), TIMES | st.just(-math.inf)) | st.none(), max_size=300)
)
def test_what_is_due_is_taken_and_nothing_else(steps: list[tuple[int, float] | None]) -> None:
    """Each watch when it was last said to be due, whatever was said of it before."""

    async def scheduled() -> None:
        clock = 0.0
        schedule = Schedule(lambda: clock)
        watches: list[Any] = [Due() for _ in range(91)]
        for step in steps:
            if step is None:
                clock += 1
                due = {watch for watch in watches if watch.due <= clock}
                assert schedule.next_due() <= min(watch.due for watch in watches)
                taken = schedule.take()
                assert len(taken) == len(due)
                assert set(taken) == due
                assert all(watch.due == math.inf for watch in taken)
                assert schedule.next_due() == min(watch.due for watch in watches)
            elif step[1] == -math.inf:
                schedule.now(watches[step[0]])
            else:
                schedule.at(watches[step[0]], step[1])

    asyncio.run(scheduled())


def test_the_schedule_does_not_grow_with_what_is_past() -> None:
    async def scheduled() -> int:
        watch: Any = Due()
        schedule = Schedule(lambda: 0.0)
        for when in range(10_000):
            schedule.at(watch, float(when))
        return len(schedule)

    assert asyncio.run(scheduled()) < 100


def test_a_watch_is_taken_once_though_it_stands_there_twice() -> None:
    async def scheduled() -> list[object]:
        watch: Any = Due()
        schedule = Schedule(lambda: 2.0)
        schedule.at(watch, 1.0)
        schedule.at(watch, 0.5)
        schedule.at(watch, 1.0)
        schedule.now(watch)
        schedule.now(watch)
        schedule.at(watch, 1.0)
        return [*schedule.take(), *schedule.take()]

    assert len(asyncio.run(scheduled())) == 1


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
    """Compares as arrays of some libraries do."""

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


@given(st.text())
def test_no_payload_is_too_strange_to_decode(payload: str) -> None:
    decode(payload)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_payload_says_table_and_keys(relation: int, keys: list[int]) -> None:
    payload = f"1:{relation}:{','.join(map(str, keys))}"
    assert decode(payload) == Notification(relation, tuple(keys))


@pytest.mark.fault("B46")
def test_payloads_of_another_version_mean_everything() -> None:
    """So that processes of two versions of rowbell can run side by side."""
    assert decode("2:16400:whatever") == Notification(None, None)
    assert decode("1:16400:*") == Notification(16400, None)
    assert decode("1:16400:whatever") is None


def test_the_backoff_doubles_up_to_its_limit_and_starts_anew_after_health() -> None:
    timing = Timing(backoff=1.0, backoff_limit=5.0, healthy=60.0)
    backoff = Backoff(timing, random.Random(1))  # noqa: S311
    delays = [backoff.delay(healthy_for=0) for _ in range(6)]
    for delay, base in zip(delays, [1, 2, 4, 5, 5, 5], strict=True):
        assert 0.8 * base <= delay <= 1.2 * base
    assert len(set(delays)) == 6
    assert backoff.delay(healthy_for=61) <= 1.2


@given(st.text(min_size=1).filter(lambda name: "\0" not in name))
def test_any_name_is_quoted_so_that_it_ends_where_it_ends(name: str) -> None:
    quoted = quote_identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "") == name.replace('"', "")


def test_a_nul_is_in_no_name() -> None:
    with pytest.raises(ValueError, match="not an identifier"):
        quote_identifier("a\0b")


def test_all_public_names_are_there() -> None:
    assert all(hasattr(rowbell, name) for name in rowbell.__all__)
    assert sorted(rowbell.__all__) == list(rowbell.__all__)


def test_what_rings_already_goes_on_ringing_when_other_columns_are_registered() -> None:
    """A wait may have come meanwhile that relies on it."""
    interest = Interest((1, 2))
    interest.registered = frozenset({"a"})
    interest.watches = {object(): frozenset({"b"})}  # type: ignore[dict-item]
    assert interest.wanted == frozenset({"a", "b"})
    interest.registered = None
    assert interest.wanted is None


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 0.5)), max_size=200))
def test_reads_in_vain_stay_within_their_rate_and_nothing_waits_long(
    reads: list[tuple[int, float]],
) -> None:
    """However large and frequent: notifications are put off, by a bounded time."""
    throttle, now, first = Throttle(), 1_000.0, 1_000.0
    total = 0
    for rows, pause in reads:
        now += pause
        allowed = throttle.until(7, now)
        assert now <= allowed <= now + LONGEST + TOGETHER
        now = allowed
        throttle.spend(7, rows, now)
        total += rows
    largest = max((rows for rows, _ in reads), default=0)
    assert total <= ROWS_PER_SECOND * (now - first) + ALLOWANCE + largest


def test_a_table_pays_for_itself_alone() -> None:
    throttle = Throttle()
    throttle.spend(7, 10_000, 5.0)
    assert throttle.until(7, 5.0) > 6
    assert throttle.until(8, 5.0) == 5
    assert throttle.until(7, 60.0) == 60


def test_a_single_row_in_vain_delays_nothing() -> None:
    throttle = Throttle()
    for i in range(10):
        throttle.spend(7, 1, float(i))
        assert throttle.until(7, float(i)) == i
