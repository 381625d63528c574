"""The values of several rounds, summarized as a median and a range."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict

DIGITS = 5
"""How many significant digits are kept: more than a table shows."""


class Spread(TypedDict):
    """A median, and the range around it: least to most, or the middle half."""

    median: float
    low: float
    high: float


def short(value: float) -> float:
    """The value with the digits that are kept."""
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
    """Each round's value, divided by the base of the same round."""
    return [value / of for value, of in zip(values, base, strict=True)]


def cell(spread: Spread, digits: int = 2, unit: str = "") -> str:
    """The spread as a table shows it."""
    low, high = f"{spread['low']:,.{digits}f}", f"{spread['high']:,.{digits}f}"
    return f"{spread['median']:,.{digits}f}{unit} [{low}..{high}]"
