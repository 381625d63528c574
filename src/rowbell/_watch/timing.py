"""All times in the library, in seconds, and the backoff between attempts."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from datetime import timedelta
from decimal import Decimal

from rowbell.errors import InvalidArgumentError


def seconds_of(argument: str, value: object, *, may_be_zero: bool = False) -> float:
    """The seconds in a caller's argument.

    Args:
        argument: The argument's name, for the error.
        value: A number of seconds, or a ``timedelta``.
        may_be_zero: Whether it is a limit, which may be 0 or infinite.

    Raises:
        InvalidArgumentError: It is another type, negative, 0 or infinite.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = math.nan
    if not (seconds >= 0 if may_be_zero else 0 < seconds < math.inf):
        which = "not negative" if may_be_zero else "above 0 and finite"
        none = ", or None for no limit" if may_be_zero else ""
        expected = f"a number of seconds or a timedelta, {which}{none}"
        raise InvalidArgumentError(argument, value, expected)
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times of a watcher, all in seconds.

    Attributes:
        connect: The longest time to open the LISTEN connection.
        proof: The longest time for the proof of delivery.
        heartbeat: The time between two heartbeat queries on the LISTEN connection.
        answer: The longest time for any query on the LISTEN connection. After it the connection
            counts as lost.
        backoff: The wait before the first attempt to reconnect; it doubles with each attempt.
        backoff_limit: The longest wait between two attempts.
        healthy: After this time without a loss, the backoff is reset.
        quick: The first interval between reads of a watch that is being armed; it doubles up to
            the watch's own interval.
        first_read: The longest time until a wait's failed first read is repeated, if the reason
            passes: until a wait has read its row, it can miss changes.
        narrow: How long an old transaction may keep a watch from being armed before the locks
            of its table are queried instead.
        linger: How long a row that no wait needs stays registered, so that a loop of waits
            does not register it each time.
        spread: The time over which the reads after a lost connection are spread.
        last_read: The longest time for the last read of a wait after its timeout.
        close: How long closing waits for current work.
    """

    connect: float = 10.0
    proof: float = 2.0
    heartbeat: float = 10.0
    answer: float = 5.0
    backoff: float = 0.25
    backoff_limit: float = 30.0
    healthy: float = 60.0
    quick: float = 0.005
    first_read: float = 1.0
    narrow: float = 1.0
    linger: float = 5.0
    spread: float = 0.2
    last_read: float = 5.0
    close: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            seconds = seconds_of(f"timing.{field.name}", getattr(self, field.name))
            object.__setattr__(self, field.name, seconds)


class Backoff:
    """How long to wait before the next attempt: doubled each time, with jitter and a maximum.

    It has no clock: times are arguments.
    """

    def __init__(
        self, timing: Timing, jitter: random.Random | None = None, *, limit: float | None = None
    ) -> None:
        self._timing = timing
        self._limit = timing.backoff_limit if limit is None else limit
        self._random = jitter or random.Random()  # noqa: S311  # spreads load, hides nothing
        self._next = timing.backoff

    def delay(self, healthy_for: float) -> float:
        """The wait before the next attempt, in seconds.

        Args:
            healthy_for: How long there was no failure before this one, in seconds.
        """
        if healthy_for >= self._timing.healthy:
            self._next = self._timing.backoff
        delay = self._next
        self._next = min(self._next * 2, self._limit)
        return delay * self._random.uniform(0.8, 1.2)
