"""Who waits for what, what is registered for it, and what is to be read next.

The board is where the two sources of signals meet: the listener *rings* a row, the clock makes
a watch *due*; both only put it on the list of what the reader takes next. There is no ``await``
in here, so nothing can change between a look and a decision.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rowbell._watch.board.registrations import Interest, Interests
from rowbell._watch.board.schedule import Schedule
from rowbell._watch.board.throttle import Throttle
from rowbell._watch.board.watch import Arming, Turn, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rowbell._watch.database.tables import Columns, WatchedTable
    from rowbell._watch.rows.mapped_rows import Evidence
    from rowbell._watch.state import Reason
    from rowbell._watch.timing import Timing


_MOMENTS: Final = 4
"""How many moments the re-reads after a gap are spread over."""


class Board:
    """The watches of one watcher.

    Args:
        clock: The event loop's clock.
        timing: The watcher's times.
        recheck: How often an armed watch is read all the same, in seconds; ``None``: never.
        changed: Called when what the statistics say may have changed.

    Attributes:
        watches: The watches that have not ended.
        server: The server that notifies, as ``Evidence`` names it; ``None`` while nothing is heard.
        strayed: Whether a read was answered by another primary than that.
        troubles: The tables that cannot ring, and why.
        schedule: When each watch is to be read next.
        to_register: Set when something is to be registered.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        timing: Timing,
        recheck: float | None,
        changed: Callable[[], None],
    ) -> None:
        self.watches: set[Watch] = set()
        self.server: float | None = None
        self.strayed = False
        self.troubles: dict[int, Reason] = {}
        self.schedule = Schedule(clock)
        self.to_register = asyncio.Event()
        self._clock = clock
        self._timing = timing
        self._recheck = recheck
        self._changed = changed
        self._interests = Interests()
        self._unproven: set[Watch] = set()
        self._refused: set[Interest] = set()
        self._throttle = Throttle()

    @property
    def hearing(self) -> bool:
        """Whether the listener hears."""
        return self.server is not None

    # -- watches come and go

    def add(self, watch: Watch) -> None:
        """Begin a watch; it is read at once."""
        watch.quick = self._timing.quick
        self.watches.add(watch)
        self.schedule.now(watch)
        self._changed()

    def discard(self, watch: Watch) -> None:
        """End a watch. Its rows stay registered for a while."""
        self.watches.discard(watch)
        self._detach(watch)
        watch.due = math.inf
        self._changed()

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all watches with an error."""
        for watch in list(self.watches):
            watch.fail(error())

    # -- the clock

    def take_due(self) -> list[Watch]:
        """What is to be read now. Whoever takes watches returns them by ``answered``."""
        due = self.schedule.take()
        for watch in due:
            watch.turn = Turn.READING_RUNG if watch.turn is Turn.RUNG else Turn.READING
            watch.read_for_notification, watch.notified = watch.notified, False
        return due

    def answered(self, watches: Iterable[Watch], begun: float, trouble: str = "") -> None:
        """A read that began at ``begun`` is over: those that it has not ended are read again."""
        now = self._clock()
        in_vain: defaultdict[int, int] = defaultdict(int)
        for watch in watches:
            turn, watch.turn = watch.turn, Turn.WAITING
            if watch.over or watch not in self.watches:
                continue
            if watch.read_for_notification and watch.unchanged:
                for oid, _ in watch.names:
                    in_vain[oid] += 2 if turn is Turn.READING_RUNG else 1
            if begun >= watch.deadline:
                watch.time_out(trouble)
            elif turn is Turn.READING_RUNG or (turn is Turn.AGAIN and not _is_proven(watch)):
                self._now_or_soon(watch)
            else:
                when = self._next_try(watch, now) if trouble else self._next_read(watch, now)
                self.schedule.at(watch, min(when, max(watch.deadline, now)))
        for oid, rows in in_vain.items():
            self._throttle.spend(oid, rows, now)
        self._changed()

    def _next_try(self, watch: Watch, now: float) -> float:
        """When to read after a read has failed."""
        first = min(watch.interval, self._timing.first_read)
        return _tick(now, watch.interval if watch.found else first)

    def _next_read(self, watch: Watch, now: float) -> float:
        if watch.arming is Arming.ARMED:
            return _tick(now, self._recheck) if self._recheck else math.inf
        soon = watch.arming is Arming.ARMING or (self.hearing and self._may_arm(watch))
        if soon and watch.quick < watch.interval:
            watch.quick *= 2
            return now + watch.quick / 2
        return _tick(now, watch.interval)

    # -- the bell

    def ring(self, relation: int | None, keys: Iterable[int] | None) -> None:
        """A notification came: read those rows now, or soon where many came in vain."""
        if relation is None:
            rung = self._interests.all()
        elif keys is None:
            rung = self._interests.of_table(relation)
        else:
            rung = self._interests.named(relation, keys)
        for watch in {watch: None for interest in rung for watch in interest.watches}:
            watch.notified = True
            if watch.turn is Turn.WAITING and watch.arming is Arming.ARMED:
                watch.turn = Turn.RUNG
            if watch.turn is Turn.WAITING or watch.turn is Turn.RUNG:
                self._now_or_soon(watch)
            else:
                watch.turn = Turn.AGAIN

    def _now_or_soon(self, watch: Watch) -> None:
        """Read it now, or when its tables' throttle allows: what is put off is read together."""
        now = self._clock()
        when = max((self._throttle.until(oid, now) for oid, _ in watch.names), default=now)
        if not watch.notified or when <= now:
            self.schedule.now(watch)
        elif when < watch.due:
            self.schedule.at(watch, min(when, max(watch.deadline, now)))

    # -- arming

    def consider(self, watch: Watch, evidence: Evidence, boundary: int | None) -> None:
        """Take in what a read says for arming.

        Args:
            watch: The watch that it was made for.
            evidence: What it says.
            boundary: The watch's boundary when the read began, ``None`` if it had none.
        """
        if watch.over or watch not in self.watches or not self.hearing:
            return
        before = watch.arming
        if evidence.server != self.server:
            self._stray(watch, evidence.server)
        else:
            watch.prove(evidence, boundary)
            if watch.names != evidence.names:
                self._attach(watch, evidence.names)
            elif watch.arming is Arming.UNARMED:
                self._arm(watch)
        if watch.arming is not before:
            self._changed()

    def _stray(self, watch: Watch, server: float | None) -> None:
        """A read was answered by another server than the one that notifies.

        By a standby, now and then, behind a balancer. By another primary after a failover, and then
        nothing that was heard can be trusted: the listener has to find out who is who.
        """
        watch.arming = Arming.UNARMED
        if server is not None and not self.strayed:
            self.strayed = True
            self.to_register.set()

    def _attach(self, watch: Watch, names: tuple[tuple[int, int], ...]) -> None:
        """Register the watch's row, under the names by which the triggers know it."""
        self._detach(watch)
        watch.names = names
        for interest in self._interests.join(watch):
            self._want(interest)
        self._arm(watch)

    def _detach(self, watch: Watch) -> None:
        self._interests.leave(watch, self._clock())
        watch.names, watch.arming = (), Arming.UNARMED

    def refused(self, interests: Iterable[Interest]) -> None:
        """The database takes no more rows; it is asked again with the next heartbeat."""
        self._refused.update(interests)
        self._changed()

    def want_refused(self) -> None:
        """Have registered what was refused before."""
        wanted, self._refused = self._refused, set()
        for interest in wanted:
            if interest.watches:
                self._want(interest)

    def is_refused(self, watch: Watch) -> bool:
        """Whether a row that the watch needs was refused."""
        return bool(self._refused) and not self._refused.isdisjoint(self._interests.of(watch))

    def _want(self, interest: Interest) -> None:
        if interest.name[0] not in self.troubles:
            self._interests.want(interest)
            self.to_register.set()

    def take_unregistered(self) -> list[tuple[Interest, Columns]]:
        """What is to be registered now, and with which columns."""
        return self._interests.take_unregistered()

    def registered(self, batch: Iterable[tuple[Interest, Columns]], boundary: int) -> None:
        """The registration of a batch is committed, and the boundary was taken after it."""
        for interest, columns in batch:
            if interest.name[0] in self.troubles or not self.hearing:
                continue
            interest.registered, interest.boundary = columns, boundary
            # Armed ones too: the row may have been deleted by somebody, and be there again now.
            for watch in interest.watches:
                self._arm(watch)

    def _arm(self, watch: Watch) -> None:
        """Want the read that proves it, if all that the watch needs is registered."""
        interests = self._interests.of(watch)
        if not interests or not all(i.covers(i.watches[watch]) for i in interests):
            return
        watch.arming, watch.boundary = Arming.ARMING, max(i.boundary for i in interests)
        watch.quick = self._timing.quick
        self._unproven.add(watch)
        self._signal(watch)

    def _signal(self, watch: Watch, after: float = 0.0) -> None:
        if watch.turn is not Turn.WAITING and watch.turn is not Turn.RUNG:
            watch.turn = Turn.AGAIN
        elif not after:
            self.schedule.now(watch)
        elif (when := self._clock() + after) < watch.due:
            self.schedule.at(watch, when)

    def arming(self) -> tuple[list[int], int]:
        """The tables of watches that still wait for their proof, and the highest boundary."""
        self._unproven = {
            w for w in self._unproven if w.arming is Arming.ARMING and w.boundary > 0 and not w.over
        }
        relations = {relation for watch in self._unproven for relation, _ in watch.names}
        return sorted(relations), max((w.boundary for w in self._unproven), default=0)

    def clear(self, relations: Iterable[int], boundary: int) -> None:
        """No transaction from before that boundary can still change those tables."""
        proven = set(relations)
        for watch in self._unproven:
            waits = watch.arming is Arming.ARMING and 0 < watch.boundary <= boundary
            if waits and all(relation in proven for relation, _ in watch.names):
                # Below any xmin, and yet another one than before: a read that has begun with the
                # boundary of an earlier look proves nothing.
                watch.boundary = -watch.boundary
                self._signal(watch)

    # -- gaps

    def unarm(self) -> None:
        """The bell cannot be trusted any more: everything is polled until it is armed anew."""
        self.server, self.strayed = None, False
        self._interests.clear()
        self._refused.clear()
        self._unproven.clear()
        self.troubles.clear()
        for watch in self.watches:
            watch.names, watch.arming, watch.quick = (), Arming.UNARMED, self._timing.quick
            self._soon(watch)
        self._changed()

    def heard(self, server: float) -> None:
        """The bell is back, on that server: read everything, which also arms it."""
        self.server = server
        for watch in self.watches:
            watch.quick = self._timing.quick
            self._soon(watch)

    def distrust(self, boundary: int) -> None:
        """Some notifications were not sent: prove every watch anew, from this boundary on."""
        self._prove_anew(self._interests.all(), boundary)

    def redefined(self, tables: Iterable[int], boundary: int) -> None:
        """Tables, or their triggers, are not what they were: the same for their watches."""
        for oid in tables:
            interests = self._interests.of_table(oid)
            for rows in {watch.rows for interest in interests for watch in interest.watches}:
                rows.forms.forget()
            self._prove_anew(interests, boundary)

    def _prove_anew(self, interests: Iterable[Interest], boundary: int) -> None:
        watches: dict[Watch, None] = {}
        for interest in interests:
            interest.boundary = boundary
            watches.update(dict.fromkeys(interest.watches))
        for watch in watches:
            if watch.arming is not Arming.UNARMED:
                watch.arming, watch.boundary = Arming.ARMING, boundary
                watch.quick = self._timing.quick
                self._unproven.add(watch)
            self._soon(watch)
        self._changed()

    def _soon(self, watch: Watch) -> None:
        spread = min(self._timing.spread, watch.interval) if len(self.watches) > 100 else 0.0  # noqa: PLR2004
        # In a few moments, not in as many as there are watches: those of one are read together.
        self._signal(watch, spread * random.randrange(_MOMENTS) / _MOMENTS)  # noqa: S311

    # -- tables that cannot ring

    def tables(self) -> dict[int, tuple[WatchedTable, Columns]]:
        """The tables whose triggers are to be looked at, with the columns watched in them."""
        return self._interests.tables(self.troubles)

    def trouble(self, troubles: dict[int, Reason]) -> dict[int, Reason]:
        """Which tables cannot ring, and why; returns those of which that is news."""
        news = {oid: why for oid, why in troubles.items() if self.troubles.get(oid) != why}
        mended = self.troubles.keys() - troubles.keys()
        self.troubles = dict(troubles)
        for relation in (*news, *mended):
            for interest in self._interests.of_table(relation):
                interest.registered = ()
                for watch in interest.watches:
                    watch.arming = Arming.UNARMED
                    self._soon(watch)
                if relation in mended:
                    self._want(interest)
        if news or mended:
            self._changed()
        return news

    def _may_arm(self, watch: Watch) -> bool:
        return watch.hindrance is None and not any(r in self.troubles for r, _ in watch.names)

    def take_idle(self) -> list[Interest]:
        """Rows that nobody has waited for in a while, to be unregistered."""
        return self._interests.take_idle(self._clock() - self._timing.linger)


def _is_proven(watch: Watch) -> bool:
    """Whether the read that a proof was wanted of has been just that, and nothing was notified."""
    return watch.arming is Arming.ARMED and not watch.notified


def _tick(now: float, interval: float) -> float:
    """The next multiple of the interval: watches of one interval are read together."""
    return (math.floor(now / interval) + 1) * interval
