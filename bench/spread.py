"""The values of several rounds, summarized as a median and a range."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict

DIGITS = 5
"""The number of significant digits that are saved: more than a table shows."""


class Spread(TypedDict):
    """A median and a range: from the least to the most value, or the middle half."""

    median: float
    low: float
    high: float


def short(value: float) -> float:
    """The value, rounded to the digits that are saved."""
    return float(f"{value:.{DIGITS}g}")


def extremes(values: Sequence[float]) -> Spread:
    """The median, the least and the most."""
    return Spread(median=short(median(values)), low=short(min(values)), high=short(max(values)))


def middle_half(values: Sequence[float]) -> Spread:
    """The median and the middle half: for many values, each of them noisy."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return Spread(median=short(median(ordered)), low=short(low), high=short(high))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """The value of each round, divided by the base of the same round."""
    return [value / of for value, of in zip(values, base, strict=True)]


def cell(spread: Spread, digits: int = 2, unit: str = "") -> str:
    """The spread as text for a table."""
    low, high = f"{spread['low']:,.{digits}f}", f"{spread['high']:,.{digits}f}"
    return f"{spread['median']:,.{digits}f}{unit} [{low}..{high}]"
