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
"""The time of a read that is due at once."""


class Why(Enum):
    """Why a row is to be read."""

    DUE = "due"
    """The polling interval, or that of the safety re-reads, has passed."""
    PROOF = "proof"
    """Its watch is not armed, and a read may take it a phase further."""
    NOTIFIED = "notified"
    """Its watch is armed and was notified of: the row has probably changed."""
    CONFIRMATION = "confirmation"
    """The read after a notification showed no change: once more, with evidence that a primary
    answers."""


@dataclass(eq=False, slots=True)
class ScheduledRead:
    """One read of a watch's row, from when it is scheduled until it is answered.

    Attributes:
        watch: Whose row.
        when: When it is due, on the schedule's clock.
        why: Why.
        notified: Whether a notification has caused it, or came before it began.
        begun_in: The phase of the watch when the read began; ``None`` before.
        repeated: Whether it is to be read again: something happened after it was taken.
        notified_again: Whether that was a notification.
        unchanged: Whether it found the row as the read before did.
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
    """The next read of each watch. Times are few where watches are many: reads come together.

    Args:
        clock: The time, in seconds.
        earlier: Called when there may be something to read earlier than was known.
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
        """Schedule the next read of a watch, instead of the one that was scheduled.

        Args:
            watch: The watch.
            when: When; ``NOW`` for at once, ``math.inf`` for never.
            why: Why.
            notified: Whether a notification has come for it.
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
        """Do not read that watch's row."""
        self._reads.pop(watch, None)

    def next_due(self) -> float:
        """When there is something to read next; ``math.inf`` for never."""
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
        """What is to be read now; the schedule forgets it."""
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
