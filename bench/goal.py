"""The goal for a measured value, and whether it is reached."""

from __future__ import annotations

from dataclasses import dataclass

from spread import Spread, cell


@dataclass(frozen=True)
class Goal:
    """The upper limit for a value.

    Attributes:
        most: The highest value that reaches the goal.
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
    """A row of a table: what was measured, the value, and the goal with its verdict.

    For a spread, the median decides.
    """
    if isinstance(value, dict):
        text, decisive = cell(value, digits, unit), value["median"]
    else:
        text, decisive = f"{value:,.{digits}f}{unit}", value
    return [label, text, goal.verdict(decisive) if goal else ""]
