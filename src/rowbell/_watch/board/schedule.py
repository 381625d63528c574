"""When each watch is to be read next: now, or at some time.

A watch says itself when it is due; an entry that says otherwise is of the past and skipped. Times
are few where watches are many, for those of one interval are read together.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import defaultdict
from typing import TYPE_CHECKING

from rowbell._watch.board.watch import Watch

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
        self._times: list[float] = []
        self._at: defaultdict[float, list[Watch]] = defaultdict(list)
        self._entries = 0
        self._most = 64

    def __len__(self) -> int:
        return len(self._now) + self._entries

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
            if self._entries > self._most:  # mostly of watches that are over, perhaps
                self._forget_past()
            if when not in self._at:
                heapq.heappush(self._times, when)
                self.earlier.set()
            self._at[when].append(watch)
            self._entries += 1

    def next_due(self) -> float:
        """When there is something to read next."""
        if self._now:
            return -math.inf
        while self._times:
            when = self._times[0]
            watches = self._at[when]
            while watches and watches[-1].due != when:
                watches.pop()
                self._entries -= 1
            if watches:
                return when
            del self._at[heapq.heappop(self._times)]
        return math.inf

    def take(self) -> list[Watch]:
        """What is to be read now; it is not due any more."""
        due = list[Watch]()
        waiting, self._now = self._now, []
        self._take(waiting, -math.inf, due)
        now = self._clock()
        while self.next_due() <= now:
            when = heapq.heappop(self._times)
            watches = self._at.pop(when)
            self._entries -= len(watches)
            self._take(watches, when, due)
        return due

    def _take(self, watches: list[Watch], when: float, due: list[Watch]) -> None:
        for watch in watches:
            if watch.due == when:
                watch.due = math.inf  # at once: it may stand there twice for the same time
                due.append(watch)

    def _forget_past(self) -> None:
        entries = [(when, w) for when, ws in self._at.items() for w in ws if w.due == when]
        self._at.clear()
        for when, watch in entries:
            self._at[when].append(watch)
        self._times = list(self._at)
        heapq.heapify(self._times)
        self._entries = len(entries)
        self._most = 2 * self._entries + 64
