"""What was written, and what the workers have seen of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

LATE = 1.0
"""A change that is seen later than this, in seconds, is late."""


@dataclass
class Worker:
    """What one worker has said last.

    Attributes:
        armed: How many of its waits a notification will wake.
        polled: How many are polled.
        reason: Why they are polled.
    """

    armed: int = 0
    polled: int = 0
    reason: str = ""


@dataclass
class Ledger:
    """All changes, by row.

    Attributes:
        written: The number of changes.
        woken: How often a worker's wait has returned.
        late: How many changes were seen late.
        worst: The longest time from a commit until it was seen, in seconds, for what happened then.
        happens: What happens now.
        workers: What each worker has said last.
    """

    written: int = 0
    woken: int = 0
    late: int = 0
    worst: dict[str, float] = field(default_factory=dict[str, float])
    happens: str = "starting"
    workers: dict[int, Worker] = field(default_factory=dict[int, Worker])
    _seen: dict[int, int] = field(default_factory=dict[int, int])
    _committed: dict[int, list[tuple[int, float]]] = field(
        default_factory=dict[int, list[tuple[int, float]]]
    )

    def commit(self, row: int, n: int) -> None:
        """A change of a row is committed: it has this ``n`` now."""
        self.written += 1
        if n > self._seen.get(row, 0):  # a worker may say so before the writer has its answer
            self._committed.setdefault(row, []).append((n, time.monotonic()))

    def see(self, row: int, n: int, when: float) -> None:
        """The row's worker has seen this ``n``, and with it all changes before."""
        self.woken += 1
        self._seen[row] = max(n, self._seen.get(row, 0))
        waiting = self._committed.get(row, [])
        for delay in (when - since for number, since in waiting if number <= n):
            self.late += delay > LATE
            self.worst[self.happens] = max(self.worst.get(self.happens, 0.0), delay)
        self._committed[row] = [one for one in waiting if one[0] > n]

    @property
    def unseen(self) -> int:
        """How many changes no worker has seen yet."""
        return sum(map(len, self._committed.values()))

    def longest_unseen(self) -> float:
        """How long the oldest of them has been waiting, in seconds."""
        times = (since for waiting in self._committed.values() for _, since in waiting[:1])
        now = time.monotonic()
        return now - min(times, default=now)
