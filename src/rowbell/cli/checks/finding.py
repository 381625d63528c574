"""What a check has found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell.cli.target import Target

Check: TypeAlias = Callable[[AsyncEngine, Target], Awaitable[list["Finding"]]]
"""A check: it gets an engine and the target of the command."""


class Outcome(StrEnum):
    """Whether something is right."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something about it should be known."""
    FAILED = "failed"
    """Rows are polled because of it, or somebody may be harmed."""
    UNKNOWN = "unknown"
    """The role may not see it, or it does not apply."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was checked.
        outcome: Whether it is right.
        evidence: What was observed.
        fix: What to do; empty if nothing.
    """

    check: str
    outcome: Outcome
    evidence: str
    fix: str = ""

    def as_row(self) -> dict[str, Any]:
        """The finding for scripts."""
        return {
            "check": self.check,
            "outcome": self.outcome.value,
            "evidence": self.evidence,
            "fix": self.fix,
        }
