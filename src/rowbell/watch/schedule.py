"""When each watch is to be read next: now, or at some time.

A watch says itself when it is due; an entry that says otherwise is of the past and skipped.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from itertools import count
from typing import TYPE_CHECKING

from rowbell.watch.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable


class Schedule:
    """What is to be read, and when.

    Args:
        clock: The event loop's clock.

    Attributes:
        earlier: Set when something is to be read, perhaps earlier than was known.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.earlier = asyncio.Event()
        self._clock = clock
        self._now: list[Watch] = []
        self._later: list[tuple[float, int, Watch]] = []
        self._order = count()
        self._most = 64

    def __len__(self) -> int:
        return len(self._now) + len(self._later)

    def now(self, watch: Watch) -> None:
        """Read it now."""
        if watch.due > -math.inf:
            watch.due = -math.inf
            self._now.append(watch)
            self.earlier.set()

    def at(self, watch: Watch, when: float) -> None:
        """Read it then; at ``math.inf`` never."""
        watch.due = when
        if when < math.inf:
            if len(self._later) > self._most:  # mostly of watches that are over, perhaps
                self._later = [entry for entry in self._later if entry[0] == entry[2].due]
                heapq.heapify(self._later)
                self._most = 2 * len(self._later) + 64
            heapq.heappush(self._later, (when, next(self._order), watch))
            self.earlier.set()

    def next_due(self) -> float:
        """When there is something to read next."""
        if self._now:
            return -math.inf
        while self._later and self._later[0][0] != self._later[0][2].due:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else math.inf

    def take(self) -> list[Watch]:
        """What is to be read now; it is not due any more."""
        now, due = self._clock(), list[Watch]()
        waiting, self._now = self._now, []
        for watch in waiting:
            if watch.due == -math.inf:
                watch.due = math.inf
                due.append(watch)
        while self.next_due() <= now:
            watch = heapq.heappop(self._later)[2]
            watch.due = math.inf  # at once: it may stand there twice for the same time
            due.append(watch)
        return due
