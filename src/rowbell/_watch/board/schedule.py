"""When each watch's row is read next, and why."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.board.phases import Phase
    from rowbell._watch.board.watch import Watch

NOW: Final = -math.inf
"""The time of a read that is due immediately."""


class Why(Enum):
    """Why a row is to be read."""

    DUE = "due"
    """The polling interval, or the interval of the safety re-reads, has passed."""
    PROOF = "proof"
    """The watch is not armed, and a read may move it to the next phase."""
    NOTIFIED = "notified"
    """The watch is armed and a notification named its row: the row has probably changed."""
    CONFIRMATION = "confirmation"
    """The read after a notification showed no change: read again, with evidence that a primary
    answers."""


@dataclass(eq=False, slots=True)
class ScheduledRead:
    """One read of a watch's row, from its scheduling until it is answered.

    Attributes:
        watch: The watch.
        when: When it is due, on the schedule's clock.
        why: Why.
        notified: Whether a notification has caused it, or came before it began.
        begun_in: The phase of the watch when the read began; ``None`` before that.
        repeated: Whether the row must be read again, because something happened meanwhile.
        notified_again: Whether that was a notification.
        unchanged: Whether it found the same values as the read before.
    """

    watch: Watch
    when: float
    why: Why
    notified: bool = False
    begun_in: Phase | None = None
    repeated: bool = False
    notified_again: bool = False
    unchanged: bool = False


class Schedule:
    """The next read of each watch. Many watches share a few times, so their reads are batched.

    Args:
        clock: The time, in seconds.
        earlier: Called when a read may be due earlier than before.
    """

    def __init__(self, clock: Callable[[], float], earlier: Callable[[], None]) -> None:
        self._clock = clock
        self._earlier = earlier
        self._reads: dict[Watch, ScheduledRead] = {}
        self._now: list[ScheduledRead] = []
        self._times: list[float] = []
        self._at: defaultdict[float, list[ScheduledRead]] = defaultdict(list)
        self._entries = 0  # of `_at`; some are outdated
        self._most = 64

    def of(self, watch: Watch) -> ScheduledRead | None:
        """The next read of a watch."""
        return self._reads.get(watch)

    def put(self, watch: Watch, when: float, why: Why, *, notified: bool = False) -> None:
        """Schedule the next read of a watch. It replaces the one that was scheduled.

        Args:
            watch: The watch.
            when: When; ``NOW`` for immediately, ``math.inf`` for never.
            why: Why.
            notified: Whether a notification has named its row.
        """
        if when == math.inf:
            self.remove(watch)
            return
        read = self._reads[watch] = ScheduledRead(watch, when, why, notified)
        if when == NOW:
            self._now.append(read)
            self._earlier()
            return
        if self._entries > self._most:
            self._forget_outdated()
        if when not in self._at:
            heapq.heappush(self._times, when)
            self._earlier()
        self._at[when].append(read)
        self._entries += 1

    def remove(self, watch: Watch) -> None:
        """Remove the scheduled read of a watch."""
        self._reads.pop(watch, None)

    def next_due(self) -> float:
        """When the next read is due; ``math.inf`` for never."""
        if self._now:
            return NOW
        while self._times:
            when = self._times[0]
            reads = self._at[when]
            while reads and self._is_outdated(reads[-1]):
                reads.pop()
                self._entries -= 1
            if reads:
                return when
            del self._at[heapq.heappop(self._times)]
        return math.inf

    def take(self) -> list[ScheduledRead]:
        """The reads that are due now. They are removed from the schedule."""
        due, self._now = self._now, []
        now = self._clock()
        while self._times and self._times[0] <= now:
            reads = self._at.pop(heapq.heappop(self._times))
            self._entries -= len(reads)
            due += reads
        due = [read for read in due if not self._is_outdated(read)]
        for read in due:
            del self._reads[read.watch]
        return due

    def _is_outdated(self, read: ScheduledRead) -> bool:
        return self._reads.get(read.watch) is not read

    def _forget_outdated(self) -> None:
        reads = [read for reads in self._at.values() for read in reads]
        self._at.clear()
        for read in reads:
            if not self._is_outdated(read):
                self._at[read.when].append(read)
        self._times = list(self._at)
        heapq.heapify(self._times)
        self._entries = sum(map(len, self._at.values()))
        self._most = 2 * self._entries + 64
