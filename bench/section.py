"""What a part of the benchmark has found, and how it is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Draw = Callable[[Any], None]
"""Draws a plot on matplotlib's Axes."""


@dataclass
class Section:
    """One part.

    Attributes:
        slug: Its name in files.
        title: Its heading.
        how: What was measured, and how.
        head: The table's head.
        rows: The table.
        draw: Draws its plot, if it has one.
        notes: What is to be said under the table.
    """

    slug: str
    title: str
    how: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    draw: Draw | None = None
    notes: str = ""

    def markdown(self) -> str:
        """The section as it stands in the docs."""
        lines = [f"## {self.title}", "", self.how, ""]
        lines += [f"| {' | '.join(row)} |" for row in (self.head, ["---"] * len(self.head))]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        if self.draw:
            lines += ["", f"![{self.title}](plots/{self.slug}.svg)"]
        return "\n".join([*lines, *(["", self.notes] if self.notes else []), ""])


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, and in brackets the least and the most."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:,.{digits}f}{unit} [{low:,.{digits}f}..{high:,.{digits}f}]"


def quartiles(values: Sequence[float]) -> str:
    """The median, and in brackets the middle half: for many values, each of them noisy."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{median(ordered):.2f} [{low:.2f}..{high:.2f}]"


def progress(text: str) -> None:
    """Say what is being measured, in one line that the next overwrites."""
    print(text, end="\033[K\r", flush=True)
