"""Decides which phase each watch is in, and what is registered for it. No other code does that.

An event of the notifier or of a read moves watches from phase to phase, as ``phases`` defines. If a
phase needs something, it is requested: a read (``want_read``), or the subscription's ``attention``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowbell._watch.board.phases import (
    Armed,
    Event,
    Gap,
    OtherRowIds,
    OtherServer,
    Phase,
    Polled,
    Proving,
    Read,
    Registered,
    Unnotified,
    Wanted,
    WritersGone,
    following,
)
from rowbell._watch.board.proving_watches import ProvingWatches
from rowbell._watch.board.registrations import Committed, Registration, Registrations
from rowbell._watch.reasons import Reason, explain
from rowbell.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rowbell._watch.board.watch import Watch
    from rowbell._watch.database.tables import Columns
    from rowbell._watch.rows.evidence import Evidence
    from rowbell._watch.values.key_hash import RowId


class Arming:
    """The phases of one watcher's watches.

    Args:
        clock: The time, in seconds.
        must_arm: Whether a wait that cannot be armed fails (``mode="listen"``).
        want_read: Called to have a watch's row read at once.
        want_read_soon: Called to have it read soon.
        attention: Called when the subscription has something to do.
        changed: Called when the statistics may have changed.

    Attributes:
        server: The server that notifies, as ``Evidence`` names it; ``None`` while none does.
        is_server_in_doubt: Whether another primary than that server has answered a read.
        obstacles: The tables that cannot notify, and the reasons.
        armed: The number of armed watches.
        registrations: What is registered for the watches, and what is wanted.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        must_arm: bool,
        want_read: Callable[[Watch], None],
        want_read_soon: Callable[[Watch], None],
        attention: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.server: float | None = None
        self.is_server_in_doubt: bool = False
        self.obstacles: dict[int, Reason] = {}
        self.armed: int = 0
        self._clock = clock
        self._must_arm = must_arm
        self._want_read = want_read
        self._want_read_soon = want_read_soon
        self._attention = attention
        self._changed = changed
        self.registrations: Registrations = Registrations()
        self._proving = ProvingWatches()
        self._refused: set[Registration] = set()

    @property
    def is_connected(self) -> bool:
        """Whether a server notifies."""
        return self.server is not None

    def _apply(self, watch: Watch, event: Event) -> bool:
        """Move a watch to its next phase; return whether it is another phase."""
        before = watch.phase
        after = watch.phase = following(before, event, self._clock())
        if after is before:
            return False
        self._count(watch, before, after)
        if isinstance(after, Polled) and after.reason is not None and self._must_arm:
            subject = f"model {watch.request.rows.model.__name__}"
            watch.fail(ListenError(after.reason, explain(after.reason, subject)))
        watch.moved(before, after)
        self._changed()
        return True

    def _count(self, watch: Watch, before: Phase | None, after: Phase | None) -> None:
        self.armed += isinstance(after, Armed) - isinstance(before, Armed)
        self._proving.note(watch, after)

    # -- watches come and go

    def enter(self, watch: Watch) -> None:
        """A wait begins. If its row is still registered, its first read can be the proof."""
        self._apply(watch, Unnotified(watch.never_armed))
        if self.is_connected and watch.never_armed is None:
            self._apply(watch, Wanted())
            # It joins before that read: a notification during the read causes another one.
            row_ids = self.registrations.row_ids_of(watch)
            if row_ids and not any(one.table_oid in self.obstacles for one in row_ids):
                self._attach(watch, row_ids)

    def leave(self, watch: Watch) -> None:
        """A wait has ended. Its row stays registered for a while."""
        self.registrations.leave(watch, self._clock())
        if self.registrations.has_spent:
            self._attention()
        self._count(watch, watch.phase, None)
        watch.phase, watch.row_ids = Polled(self._clock()), ()

    # -- the connection

    def connected(self, server: float, watches: Iterable[Watch]) -> None:
        """A server notifies from now on. All rows are read, for their ids and for the gap."""
        self.server = server
        for watch in watches:
            if watch.never_armed is None:
                self._apply(watch, Wanted())
            self._want_read_soon(watch)

    def disconnected(self, watches: Iterable[Watch], *, must_read: bool) -> None:
        """Nothing notifies any more, or an attempt has failed: all watches are polled.

        Args:
            watches: The watches.
            must_read: Whether all rows are to be read.
        """
        self.server, self.is_server_in_doubt = None, False
        for each in (self.registrations, self._refused, self.obstacles):
            each.clear()
        for watch in watches:
            watch.row_ids = ()
            self._apply(watch, Unnotified(watch.never_armed))
            if must_read:
                self._want_read_soon(watch)

    # -- reads

    def take_evidence(self, watch: Watch, begun_in: Phase, evidence: Evidence) -> None:
        """A read has shown no change.

        Args:
            watch: The watch that it was made for.
            begun_in: The phase of the watch when the read began.
            evidence: The evidence of the read.
        """
        if self.server is None:
            return
        if evidence.server != self.server:
            self._doubt(watch, evidence.server)
        else:
            self._apply(watch, Read(begun_in, evidence))
            if watch.row_ids != evidence.row_ids:
                self._attach(watch, evidence.row_ids)

    def cannot_notify(self, watch: Watch, reason: Reason) -> None:
        """The row that a watch waits for does not exist, and nothing notifies when it appears."""
        self.registrations.leave(watch, self._clock())
        watch.row_ids = ()
        if watch.never_armed is None and self.is_connected:
            self._apply(watch, Unnotified(reason))

    def _doubt(self, watch: Watch, server: float | None) -> None:
        """Another server has answered a read: a standby, or after a failover a new primary."""
        if self._apply(watch, OtherServer()):
            self._prove_if_registered(watch)
        if server is not None and not self.is_server_in_doubt:
            self.is_server_in_doubt = True
            self._attention()  # the notifier finds out which

    def cannot_prove(self, watches: Iterable[Watch], reason: Reason) -> None:
        """Reads cannot give the evidence that these watches need."""
        for watch in (one for one in watches if not one.is_over):
            watch.never_armed = reason
            self._apply(watch, Unnotified(reason))

    # -- registrations

    def _attach(self, watch: Watch, row_ids: tuple[RowId, ...]) -> None:
        """Have the row registered under the row ids that a read has returned."""
        self.registrations.leave(watch, self._clock())
        watch.row_ids = row_ids
        missing = self.registrations.join(watch)
        self._apply(watch, OtherRowIds())
        self._apply(watch, self._by_obstacle(watch))
        for registration in missing:
            self._want_registered(registration)
        self._prove_if_registered(watch)
        if isinstance(watch.phase, Proving):
            self._attention()  # it may have to query the lock table

    def _want_registered(self, registration: Registration) -> None:
        if registration.row_id.table_oid not in self.obstacles:
            self.registrations.want(registration)
            self._attention()

    def registered(self, batch: Iterable[tuple[Registration, Columns]], boundary: int) -> None:
        """A batch is committed, and the boundary was assigned after that."""
        for registration, columns in batch:
            if registration.row_id.table_oid in self.obstacles or not self.is_connected:
                continue
            registration.committed = Committed(columns, boundary)
            for watch in registration.watches:
                if isinstance(watch.phase, Polled):  # refused before, but another watch got it
                    self._apply(watch, self._by_obstacle(watch))
                self._prove_if_registered(watch)

    def _prove_if_registered(self, watch: Watch) -> None:
        """Schedule the read that proves the watch, if everything that it needs is registered."""
        needed = self.registrations.of(watch)
        committed = [one.committed for one in needed if one.committed and one.covers(watch)]
        if not needed or len(committed) < len(needed):
            return
        boundary = max(one.boundary for one in committed)
        if self._apply(watch, Registered(boundary)):
            self._want_read(watch)

    def refused(self, registrations: Sequence[Registration]) -> None:
        """The database accepts no more registrations of this role."""
        self._refused.update(registrations)
        for registration in registrations:
            for watch in registration.watches:
                if not registration.covers(watch):  # a watch that is covered stays registered
                    self._apply(watch, Unnotified(Reason.TOO_MANY_REGISTRATIONS))
                    self._want_read_soon(watch)

    def want_refused(self) -> None:
        """Request again the registrations that were refused before."""
        wanted, self._refused = self._refused, set()
        for registration in wanted:
            for watch in registration.watches:
                self._apply(watch, self._by_obstacle(watch))
                self._want_registered(registration)

    # -- gaps

    def gap(self, boundary: int, tables: Iterable[int] | None = None) -> None:
        """Notifications may have been missed: prove the watches anew, with this boundary.

        Args:
            boundary: A transaction ID that was assigned after the gap was found.
            tables: Those concerned; ``None`` for all. Their columns' types are queried again.
        """
        if tables is None:
            registrations = self.registrations.all()
        else:
            registrations = [one for oid in tables for one in self.registrations.of_table(oid)]
        watches: dict[Watch, None] = {}
        for registration in registrations:
            if registration.committed is not None:
                registration.committed = Committed(registration.committed.columns, boundary)
            watches.update(dict.fromkeys(registration.watches))
        if tables is not None:
            for rows in {watch.request.rows for watch in watches}:
                rows.forget()
        for watch in watches:
            self._apply(watch, Gap(boundary))
            self._want_read_soon(watch)

    def set_obstacles(self, obstacles: dict[int, Reason]) -> dict[int, Reason]:
        """Set which tables cannot notify, and why; return the obstacles that are new."""
        news = {oid: why for oid, why in obstacles.items() if self.obstacles.get(oid) != why}
        mended, self.obstacles = self.obstacles.keys() - obstacles.keys(), dict(obstacles)
        for oid in (*news, *mended):
            for registration in self.registrations.of_table(oid):
                registration.committed = None
                for watch in registration.watches:
                    self._apply(watch, self._by_obstacle(watch))
                    self._want_read_soon(watch)
                if oid in mended:
                    self._want_registered(registration)
        return news

    def _by_obstacle(self, watch: Watch) -> Unnotified | Wanted:
        """What the obstacles of its tables mean for a watch."""
        reasons = (self.obstacles.get(row_id.table_oid) for row_id in watch.row_ids)
        reason = next(filter(None, reasons), watch.never_armed)
        return Unnotified(reason) if reason else Wanted()

    # -- the proof by the lock table

    def proving(self) -> tuple[list[int], int] | None:
        """The tables of watches that wait for their proof, and the highest boundary among them."""
        return self._proving.wanted()

    def writers_gone(self, tables: Iterable[int], boundary: int) -> None:
        """No transaction below the boundary can still change those tables."""
        for watch in self._proving.within(tables):
            if self._apply(watch, WritersGone(boundary)):
                self._want_read(watch)
