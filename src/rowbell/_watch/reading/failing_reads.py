"""Which reads are failing, and what was logged about them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_PAUSE: Final = 60.0
"""How long the same problem is not logged again, in seconds."""

_MOST: Final = 1_000


class FailingReads:
    """The reads that are failing, by query.

    Args:
        clock: The event loop's clock.
        note: Writes a line to the log.
    """

    def __init__(self, clock: Callable[[], float], note: Callable[[str], None]) -> None:
        self._clock = clock
        self._note = note
        self._times: dict[Hashable, tuple[int, float]] = {}
        self._told: dict[str, float] = {}
        self._to_be_revoked = False

    def times(self, name: Hashable) -> int:
        """How often the reads of this query have failed since they last succeeded."""
        return self._times.get(name, (0, 0.0))[0]

    def failed(self, name: Hashable, problem: str) -> None:
        """The read has failed. The first failure is logged, each problem once a minute."""
        times, now, what = self.times(name) + 1, self._clock(), problem.partition("\n")[0]
        self._times[name] = times, now
        if times == 1 and now >= self._told.get(what, -math.inf) + _PAUSE:
            self._note(f"{problem}; it is repeated at each wait's interval")
            if len(self._told) >= _MOST:
                self._told.clear()
            self._told[what] = now
            self._to_be_revoked = True

    def succeeded(self, name: Hashable) -> None:
        """The read has succeeded. That is logged when no other reads are failing."""
        self._times.pop(name, None)
        if not self._to_be_revoked:
            return
        now = self._clock()  # a query whose waits have ended is never read again
        self._times = {n: (i, at) for n, (i, at) in self._times.items() if at >= now - _PAUSE}
        if not self._times:
            self._note("the reads succeed again")
            self._to_be_revoked = False
