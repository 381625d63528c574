"""Reads that show no change are limited to a rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.board.throttle import (
    ALLOWANCE,
    LONGEST,
    ROWS_PER_SECOND,
    STATEMENT,
    TOGETHER,
    Throttle,
)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 0.5)), max_size=200))
def test_reads_in_vain_stay_within_their_rate_and_nothing_waits_long(
    reads: list[tuple[int, float]],
) -> None:
    """Of any size and frequency. Notifications are delayed, by a bounded time."""
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


def test_what_was_read_in_vain_is_forgiven_at_the_rate() -> None:
    throttle = Throttle()
    for _ in range(3):
        throttle.spend(7, 1_000, 10.0)
    # 0.2 s for each thousand rows, minus the allowance, rounded up to steps of 0.25 s.
    assert throttle.until(7, 10.0) == 10.5
    assert throttle.until(7, 10.3) == 10.5
    assert throttle.until(7, 10.4) == 10.4


def test_small_reads_cost_as_much_as_a_statement_does() -> None:
    """Many forged notifications of one row are throttled as well."""
    throttle = Throttle()
    allowed = ALLOWANCE // STATEMENT
    for _ in range(allowed - 1):
        throttle.spend(7, 1, 0.0)
    assert throttle.until(7, 0.0) == 0
    for _ in range(2):
        throttle.spend(7, 1, 0.0)
    assert throttle.until(7, 0.0) == TOGETHER


def test_however_much_was_read_in_vain_the_next_read_is_within_seconds() -> None:
    throttle = Throttle()
    for _ in range(100):
        throttle.spend(7, 10**9, 5.0)
    assert throttle.until(7, 5.0) == 5.0 + LONGEST
