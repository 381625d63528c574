"""The longest wait for a lock: PostgreSQL's ``lock_timeout``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final, Self, TypeAlias

from rowbell.errors import InvalidArgumentError

LockTimeoutValue: TypeAlias = str | float | timedelta
"""PostgreSQL's text form (``"5s"``, ``"500ms"``, ``"1.5min"``), seconds, or a ``timedelta``."""

_TEXT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(us|ms|s|min|h|d)?\s*")
_MILLISECONDS: Final = {
    "us": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1_000),
    "min": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
}
_MAXIMUM: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class LockTimeout:
    """A wait for a lock that PostgreSQL accepts.

    Attributes:
        milliseconds: From 1 to 2,147,483,647. PostgreSQL would wait without limit at 0.
    """

    milliseconds: int

    @classmethod
    def of(cls, value: LockTimeoutValue, argument: str = "timeout") -> Self:
        """Parse a caller's value. Less than a millisecond becomes one millisecond.

        Args:
            value: PostgreSQL's text form, in which a number without a unit is milliseconds; or
                seconds; or a ``timedelta``.
            argument: The argument's name, for the error.

        Raises:
            InvalidArgumentError: It is none of these, is not above 0, or is above 24.8 days.
        """
        milliseconds = _milliseconds(value)
        if milliseconds is None or not 0 < milliseconds <= _MAXIMUM:
            expected = 'above 0: seconds, a timedelta, or a text like "5s", "500ms", "1min"'
            raise InvalidArgumentError(argument, value, expected)
        return cls(math.ceil(milliseconds))

    def __str__(self) -> str:
        seconds, rest = divmod(self.milliseconds, 1_000)
        return f"{self.milliseconds}ms" if rest else f"{seconds}s"


def _milliseconds(value: object) -> Decimal | None:
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        return Decimal(match[1]) * _MILLISECONDS[match[2] or "ms"] if match else None
    if isinstance(value, timedelta):
        return Decimal(value // timedelta(microseconds=1)) / 1_000
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = Decimal(value)
        return seconds * 1_000 if seconds.is_finite() else None
    return None
