"""Timing arguments, and the backoff between tries."""

from __future__ import annotations

import math
import random
from dataclasses import fields
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from rowbell import InvalidArgumentError, Timing
from rowbell._watch.timing import Backoff, seconds_of


def test_a_time_of_zero_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"timing\.heartbeat"):
        Timing(heartbeat=0)


def test_the_backoff_doubles_up_to_its_limit_and_starts_anew_after_health() -> None:
    timing = Timing(backoff=1.0, backoff_limit=5.0, healthy=60.0)
    backoff = Backoff(timing, random.Random(1))  # noqa: S311
    delays = [backoff.delay(healthy_for=0) for _ in range(6)]
    for delay, base in zip(delays, [1, 2, 4, 5, 5, 5], strict=True):
        assert 0.8 * base <= delay <= 1.2 * base
    assert len(set(delays)) == 6
    assert backoff.delay(healthy_for=61) <= 1.2


@pytest.mark.parametrize("name", [field.name for field in fields(Timing)])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1s", None])
def test_each_time_is_above_zero_and_finite(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^timing\.{name} must be a number of seconds"):
        Timing(**{name: value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(2, 2.0), (0.5, 0.5), (Decimal("0.25"), 0.25), (timedelta(milliseconds=20), 0.02)],
)
def test_a_time_is_given_as_a_number_or_a_timedelta(value: Any, seconds: float) -> None:
    assert seconds_of("interval", value) == seconds
    assert Timing(heartbeat=value).heartbeat == seconds


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (math.inf, math.inf)])
def test_a_limit_may_be_zero_or_infinite(value: float, seconds: float) -> None:
    assert seconds_of("timeout", value, may_be_zero=True) == seconds


@pytest.mark.parametrize("value", [-1, -math.inf, math.nan, False, timedelta(seconds=-1)])
def test_a_limit_is_not_negative(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"not negative, or None for no limit"):
        seconds_of("timeout", value, may_be_zero=True)


def test_a_backoff_goes_on_after_a_health_that_was_too_short() -> None:
    backoff = Backoff(Timing(backoff=1.0, backoff_limit=64.0, healthy=60.0))
    delays = [backoff.delay(healthy_for=59.9) for _ in range(4)]
    for delay, base in zip(delays, [1, 2, 4, 8], strict=True):
        assert 0.8 * base <= delay <= 1.2 * base
    assert 0.8 <= backoff.delay(healthy_for=60.0) <= 1.2


def test_a_limit_below_the_first_backoff_holds_from_the_second_try_on() -> None:
    backoff = Backoff(Timing(backoff=1.0, backoff_limit=0.5))
    assert backoff.delay(healthy_for=0) >= 0.8
    assert backoff.delay(healthy_for=0) <= 0.6
