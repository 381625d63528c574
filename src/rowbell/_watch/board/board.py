"""The watches of one watcher, and which rows are read for them next.

Two things cause a read: a notification and the schedule. Both only put a watch on the list that the
reader takes next. Nothing here awaits, so nothing can change between a check and a decision.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rowbell._watch.board.arming import Arming
from rowbell._watch.board.observation import Absence
from rowbell._watch.board.phases import Armed, Proving, Registering
from rowbell._watch.board.schedule import NOW, Schedule, ScheduledRead, Why
from rowbell._watch.board.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rowbell._watch.board.observation import Reading
    from rowbell._watch.board.watch import Watch
    from rowbell._watch.timing import Timing

_MOMENTS: Final = 4
"""How many moments the reads after a gap are spread over. The reads of a moment are one batch."""

_MANY: Final = 100
"""They are spread if there are more watches than this."""


class Board:
    """The watches of one watcher.

    Args:
        clock: The time, in seconds.
        timing: The watcher's times.
        recheck: How often the row of an armed watch is read without a notification, in seconds;
            ``None`` for never.
        must_arm: Whether a wait that cannot be armed fails (``mode="listen"``).
        earlier: Called when a read may be due earlier than before.
        attention: Called when the subscription has something to do.
        changed: Called when the statistics may have changed.

    Attributes:
        watches: The watches that have not left. One that is over may stay for its registration.
        arming: Their phases, and what is registered for them.
        schedule: When each row is read next, and why.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        timing: Timing,
        *,
        recheck: float | None,
        must_arm: bool,
        earlier: Callable[[], None],
        attention: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.watches: set[Watch] = set()
        self.schedule: Schedule = Schedule(clock, earlier)
        self.arming: Arming = Arming(
            clock,
            must_arm=must_arm,
            want_read=self._want_read,
            want_read_soon=self._want_read_soon,
            attention=attention,
            changed=changed,
        )
        self._clock = clock
        self._timing = timing
        self._recheck = recheck
        self._changed = changed
        self._under_way: dict[Watch, ScheduledRead] = {}
        self._throttle = Throttle()
        self._polling = 0.0
        self._moment = random.random()  # noqa: S311  # spreads load, hides nothing

    # -- watches come and go

    def add(self, watch: Watch) -> None:
        """Begin a watch; its row is read at once."""
        self.watches.add(watch)
        self.schedule.put(watch, NOW, Why.DUE)
        self.arming.enter(watch)
        self._changed()

    def discard(self, watch: Watch) -> None:
        """End a watch."""
        if watch in self.watches:
            self.watches.discard(watch)
            self.arming.leave(watch)
            self.schedule.remove(watch)
            self._changed()

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all watches with an error."""
        for watch in list(self.watches):
            watch.fail(error())

    # -- the notifier's connection

    def connected(self, server: float) -> None:
        """This server notifies from now on."""
        self._polling = 0.0
        self.arming.connected(server, self.watches)
        self._changed()

    def disconnected(self, polling: float = 0.0) -> None:
        """Nothing notifies any more.

        Args:
            polling: The shortest interval at which rows are polled until something does, in
                seconds. Then each board has its own moments, because many others poll too.
        """
        # One of many tries again often, and reads at its own moments only.
        must_read = self.arming.is_connected or polling <= 0
        self._polling = polling
        self.arming.disconnected(self.watches, must_read=must_read)
        self._changed()

    def notified(self, table_oid: int | None, keys: Iterable[int] | None) -> None:
        """Rows may have changed: read them now, or soon if many reads have found no change.

        Args:
            table_oid: The table; ``None`` for all.
            keys: The hashes of the rows' keys; ``None`` for all rows.
        """
        for watch in self.arming.registrations.watches_of(table_oid, keys):
            if not watch.notified():
                continue
            if read := self._under_way.get(watch):
                read.repeated = read.notified_again = True
            else:
                self._read_notified(watch)
        self._changed()

    def _read_notified(self, watch: Watch, *, confirms: bool = False) -> None:
        """Read the row now, or when its tables' throttle allows; delayed reads are batched."""
        now = self._clock()
        why = Why.CONFIRMATION if confirms else self._why_notified(watch)
        when = max((self._throttle.until(i.table_oid, now) for i in watch.row_ids), default=now)
        when = NOW if when <= now else min(when, max(watch.deadline, now))
        scheduled = self.schedule.of(watch)
        if scheduled is None or when < scheduled.when:
            self.schedule.put(watch, when, why, notified=True)
        else:
            scheduled.why, scheduled.notified = why, True

    @staticmethod
    def _why_notified(watch: Watch) -> Why:
        return Why.NOTIFIED if isinstance(watch.phase, Armed) else Why.PROOF

    # -- reads

    def take_due(self) -> list[ScheduledRead]:
        """The reads that are due now. The reader passes each to ``answered`` afterwards."""
        due = self.schedule.take()
        self._under_way.update((read.watch, read) for read in due)
        return due

    def begin(self, reads: Iterable[ScheduledRead]) -> None:
        """The SELECT of these reads begins. It can prove the phases that the watches have now."""
        for read in reads:
            read.begun_in = read.watch.phase

    def take_in(self, read: ScheduledRead, reading: Reading | Absence) -> bool:
        """Process what a read found; return whether it may end the wait."""
        watch = read.watch
        watch.was_notified = read.notified
        ends = watch.observe(reading)
        read.unchanged = watch.observation.is_unchanged
        if ends or watch.is_over or watch not in self.watches:
            return ends
        if isinstance(reading, Absence) and (why := watch.request.rows.absent_keys.never_armed):
            self.arming.cannot_notify(watch, why)
        elif reading.evidence is not None and read.begun_in is not None:
            self.arming.take_evidence(watch, read.begun_in, reading.evidence)
        return False

    def answered(self, reads: Iterable[ScheduledRead], begun: float, problem: str = "") -> None:
        """These reads are over. Schedule the next read of each watch that has not ended.

        Args:
            reads: The reads.
            begun: When they began.
            problem: Why they failed; empty if they did not.
        """
        now = self._clock()
        in_vain: defaultdict[int, int] = defaultdict(int)
        for read in reads:
            watch = read.watch
            self._under_way.pop(watch, None)
            if watch.is_over or watch not in self.watches:
                continue
            if read.notified and read.unchanged:
                for row_id in watch.row_ids:
                    in_vain[row_id.table_oid] += 2 if read.why is Why.NOTIFIED else 1
            if begun >= watch.deadline:
                watch.time_out(problem)
            else:
                self._read_again(read, now, failed=bool(problem))
        for oid, rows in in_vain.items():
            self._throttle.spend(oid, rows, now)
        self._changed()

    def _read_again(self, read: ScheduledRead, now: float, *, failed: bool) -> None:
        watch = read.watch
        if read.notified_again:
            self._read_notified(watch, confirms=read.why is Why.NOTIFIED)
        elif read.why is Why.NOTIFIED:
            self.schedule.put(watch, NOW, Why.CONFIRMATION)
        elif read.repeated and not isinstance(watch.phase, Armed):
            self.schedule.put(watch, NOW, Why.PROOF)
        else:
            when = self._after_failure(read, now) if failed else self._next(watch, now)
            why = Why.PROOF if failed and read.why is Why.PROOF else Why.DUE
            self.schedule.put(watch, min(when, max(watch.deadline, now)), why)

    def _after_failure(self, read: ScheduledRead, now: float) -> float:
        """When to read after a failed read: soon, if a change may have been missed.

        Until a row was read once, a change is taken for what was there before.
        """
        interval = read.watch.request.interval
        soon = min(interval, self._timing.first_read)
        if not read.watch.observation.is_found:
            return _tick(now, soon)
        return self._tick(now, soon if read.why is Why.PROOF else interval)

    def _next(self, watch: Watch, now: float) -> float:
        """When to read a row that has not changed."""
        interval, phase = watch.request.interval, watch.phase
        if isinstance(phase, Armed):
            return self._tick(now, self._recheck) if self._recheck else math.inf
        if isinstance(phase, Proving) or (isinstance(phase, Registering) and not watch.row_ids):
            # Wait as long again as the phase has lasted, so the pauses double.
            pause = max(now - phase.since, self._timing.quick)
            if pause < interval:
                return now + pause
        return self._tick(now, interval)

    def _tick(self, now: float, interval: float) -> float:
        """When an interval ends: rows with the same interval are read together."""
        if self._polling <= 0:
            return _tick(now, interval)
        every = max(interval, self._polling)
        return _tick(now - every * self._moment, every) + every * self._moment

    def _want_read(self, watch: Watch, when: float = NOW) -> None:
        """Read a row because the watch's phase needs it."""
        if read := self._under_way.get(watch):
            read.repeated = True
            return
        scheduled = self.schedule.of(watch)
        if scheduled is None or when < scheduled.when:
            notified = scheduled is not None and scheduled.notified
            self.schedule.put(watch, when, Why.PROOF, notified=notified)
        elif scheduled.why is not Why.CONFIRMATION:
            scheduled.why = Why.PROOF

    def _want_read_soon(self, watch: Watch) -> None:
        """The same, but within a short time if there are many watches, or many others poll."""
        if self._polling > 0:
            self._want_read(watch, self._tick(self._clock(), self._polling))
            return
        if len(self.watches) <= _MANY:
            self._want_read(watch)
            return
        most = min(self._timing.spread, watch.request.interval)
        moment = random.randrange(_MOMENTS) / _MOMENTS  # noqa: S311
        self._want_read(watch, self._clock() + most * moment)


def _tick(now: float, interval: float) -> float:
    """The next multiple of the interval: rows with the same interval are read together."""
    return (math.floor(now / interval) + 1) * interval
