"""What a measured value should be, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass

from spread import Spread, cell


@dataclass(frozen=True)
class Goal:
    """The most that a value may be.

    Attributes:
        most: The value that reaches the goal just so.
        unit: Its unit, with a space before it.
    """

    most: float
    unit: str = ""

    def verdict(self, value: float) -> str:
        """The goal, and whether the value reaches it."""
        outcome = "reached" if value <= self.most else "**missed**"
        return f"≤ {self.most:,}{self.unit}: {outcome}"


def row(
    label: str, value: float | Spread, digits: int, unit: str = "", goal: Goal | None = None
) -> list[str]:
    """A table's row: what was measured, the value, and the goal with its verdict.

    The median of a spread decides.
    """
    if isinstance(value, dict):
        text, decisive = cell(value, digits, unit), value["median"]
    else:
        text, decisive = f"{value:,.{digits}f}{unit}", value
    return [label, text, goal.verdict(decisive) if goal else ""]
