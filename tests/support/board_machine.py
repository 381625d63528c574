"""The board and a model of the server, which take steps in any order.

A change is lost if a watch relies on notifications, the value of its row differs from the value
that the watch has seen, and nothing will cause another read of the row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rowbell import Reason
from rowbell._watch.board.observation import Absence, Reading
from rowbell._watch.board.phases import Armed
from rowbell._watch.board.schedule import ScheduledRead, Why
from rowbell._watch.board.table_watch import TableWatch
from rowbell._watch.board.watch import Watch
from rowbell._watch.observers import take_notice
from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.values.key_hash import WHOLE_TABLE, RowId
from support.boards import SERVER, TABLE, a_board, a_table_watch, a_watch
from support.world import Snapshot, Transaction, World

ROWS = 3


@dataclass
class Read:
    """A running read and its snapshot."""

    scheduled: ScheduledRead
    snapshot: Snapshot
    has_evidence: bool


class BoardMachine(RuleBasedStateMachine):
    """The board, with writers, a listener and a reader that take single steps."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1_000.0
        self.board = a_board(lambda: self.now)
        self.world = World(ROWS)
        self.watches: list[Watch] = []
        self.waiting: list[ScheduledRead] = []  # taken from the board, but not read yet
        self.reads: list[Read] = []
        self.batch: list[Any] | None = None  # its registration is committed, without a boundary
        self.look: tuple[list[int], int] | None = None
        self.table: TableWatch | None = None
        self.loaded: dict[int, int | None] | None = None  # the list, of the proven table watch
        self.seen_unsent = self.seen_version = 0
        self.is_connected = False

    def teardown(self) -> None:
        self.loop.close()

    # -- watches

    @initialize(
        rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=3),
        written=st.booleans(),
        registered=st.booleans(),
    )
    def begin(self, rows: list[int], written: bool, registered: bool) -> None:
        self.connect()
        for row in rows:
            self.add(row, waits_for_missing=False)
        if written:
            self.write(rows[0], muted=False, deletes=False)
        self.read_all()
        if registered:
            self.register_and_answer()

    @rule(row=st.integers(0, ROWS - 1), waits_for_missing=st.booleans())
    @precondition(lambda self: len(self.watches) < 5)
    def add(self, row: int, waits_for_missing: bool) -> None:
        watch = a_watch(row, self.loop, waits_for_missing=waits_for_missing)
        self.watches.append(watch)
        self.board.add(watch)

    # -- the list of a consumer, which is loaded again when its table has changed

    @rule()
    @precondition(lambda self: self.table is None)
    def watch_table(self) -> None:
        self.table, self.loaded = a_table_watch(self.loop), None
        self.board.add(self.table)

    @rule()
    @precondition(lambda self: self.table is not None and self.table.is_over)
    def load(self) -> None:
        """The consumer loads the list, or learns that it must be loaded again."""
        assert self.table is not None
        if self.table.change.done():
            self.board.discard(self.table)
            self.table = None
        elif self.loaded is None and self.table.result.result():
            self.loaded = self.world.snapshot().values

    # -- writers

    @rule(row=st.integers(0, ROWS - 1), muted=st.booleans(), deletes=st.booleans())
    @precondition(lambda self: len(self.world.running) < 3)
    def write(self, row: int, muted: bool, deletes: bool) -> None:
        """A writer updates or deletes a row, or inserts it if it does not exist."""
        if not self.world.is_locked(row):
            self.world.write(self.world.begin(muted=muted), row, deletes=deletes)

    @rule(row=st.integers(0, ROWS - 1), deletes=st.booleans())
    def change(self, row: int, *, deletes: bool = False) -> None:
        """A writer writes and commits before any other step."""
        if not self.world.is_locked(row):
            transaction = self.world.begin()
            self.world.write(transaction, row, deletes=deletes)
            self.world.commit(transaction)

    @rule()
    @precondition(lambda self: len(self.world.running) < 3)
    def idle_transaction(self) -> None:
        """Begin a transaction that writes elsewhere, or later."""
        self.world.begin()

    @rule(number=st.integers(0, 2), row=st.integers(0, ROWS - 1))
    @precondition(lambda self: self.world.running)
    def write_more(self, number: int, row: int) -> None:
        if not self.world.is_locked(row):
            self.world.write(self.of_running(number), row)

    @rule(number=st.integers(0, 2), commits=st.booleans())
    @precondition(lambda self: self.world.running)
    def end(self, number: int, commits: bool) -> None:
        transaction = self.of_running(number)
        (self.world.commit if commits else self.world.roll_back)(transaction)

    def of_running(self, number: int) -> Transaction:
        return self.world.running[number % len(self.world.running)]

    # -- the listener

    @rule()
    @precondition(lambda self: not self.is_connected)
    def connect(self) -> None:
        self.is_connected, self.seen_unsent = True, self.world.unsent
        self.seen_version = self.world.version
        self.board.connected(SERVER)

    @rule()
    @precondition(lambda self: self.is_connected)
    def lose_connection(self) -> None:
        self.is_connected, self.batch, self.look = False, None, None
        self.world.lose_connection()
        self.board.disconnected()

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def register(self) -> None:
        for row_id in self.board.arming.registrations.take_spent():
            self.world.registered.discard(row_id.key_hash)
        if batch := self.board.arming.registrations.take_wanted():
            self.look_at_triggers()
            self.batch = batch
            if self.world.has_triggers:
                self.world.registered |= {one.row_id.key_hash for one, _ in batch}

    @rule()
    @precondition(lambda self: self.batch is not None)
    def registered(self) -> None:
        assert self.batch is not None
        self.board.arming.registered(self.batch, self.world.assign_xid())
        self.batch = None

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def register_and_answer(self) -> None:
        self.register()
        if self.batch is not None:
            self.registered()

    @rule()
    @precondition(lambda self: self.world.sent)
    def notify(self) -> None:
        self.board.notified(TABLE, [self.world.sent.pop(0)])

    @rule(row=st.integers(0, ROWS - 1))
    @precondition(lambda self: self.is_connected)
    def forge(self, row: int) -> None:
        self.board.notified(TABLE, [row])

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def heartbeat(self) -> None:
        self.look_at_triggers()
        if self.world.unsent != self.seen_unsent:
            self.seen_unsent = self.world.unsent
            self.board.arming.gap(self.world.assign_xid())
        self.board.arming.want_refused()

    def look_at_triggers(self) -> None:
        """Process what each answer of the database says about the table."""
        obstacles = {} if self.world.has_triggers else {TABLE: Reason.TRIGGER_MISSING}
        self.board.arming.set_obstacles(obstacles)
        if self.world.version != self.seen_version:
            self.board.arming.gap(self.world.assign_xid(), [TABLE])
        self.seen_version = self.world.version

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def refuse(self) -> None:
        """The database refuses to register more rows."""
        batch = self.board.arming.registrations.take_wanted()
        self.board.arming.refused([registration for registration, _ in batch])

    @rule()
    @precondition(lambda self: not any(t.written for t in self.world.running))
    def toggle_triggers(self) -> None:
        if self.batch is None:
            self.world.toggle_triggers()

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def look_for_writers(self) -> None:
        proving = self.board.arming.proving()
        if proving is not None:
            tables, boundary = proving
            found = self.world.is_without_writers(boundary)
            self.look = (tables if found else []), boundary

    @rule()
    @precondition(lambda self: self.look is not None)
    def looked_for_writers(self) -> None:
        assert self.look is not None
        self.board.arming.writers_gone(*self.look)
        self.look = None

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def look_at_once(self) -> None:
        self.look_for_writers()
        if self.look is not None:
            self.looked_for_writers()

    # -- the reader

    @rule()
    def take(self) -> None:
        # The board keeps watches in sets, whose order is another one each time.
        self.waiting += sorted(self.board.take_due(), key=lambda due: self._order(due.watch))

    def _order(self, watch: Watch) -> int:
        return -1 if watch is self.table else self.watches.index(watch)

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.waiting)
    def begin_read(self, number: int) -> None:
        scheduled = self.waiting.pop(number % len(self.waiting))
        self.board.begin([scheduled])
        evidence = self.board.arming.is_connected and scheduled.why is not Why.NOTIFIED
        self.reads.append(Read(scheduled, self.world.snapshot(), evidence))

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.reads)
    def end_read(self, number: int) -> None:
        read = self.reads.pop(number % len(self.reads))
        watch = read.scheduled.watch
        is_table = isinstance(watch, TableWatch)
        row = WHOLE_TABLE if is_table else watch.request.key[0]
        evidence = None
        if read.has_evidence:
            evidence = Evidence((RowId(TABLE, row),), self.xmin_of(read), SERVER)
        value = 0 if is_table else read.snapshot.values[row]
        reading = Absence(evidence) if value is None else Reading((value,), evidence=evidence)
        if self.board.take_in(read.scheduled, reading):
            watch.finish(None)
        if watch.is_over and not is_table:
            take_notice(watch.result)
            self.board.discard(watch)
        self.board.answered([read.scheduled], self.now)

    @staticmethod
    def xmin_of(read: Read) -> int:
        return read.snapshot.xmin

    @rule()
    def read_all(self) -> None:
        """Read all rows that are due, at once."""
        self.begin_all()
        while self.reads:
            self.end_read(0)

    def begin_all(self) -> None:
        self.take()
        while self.waiting:
            self.begin_read(0)

    @rule(row=st.integers(0, ROWS - 1))
    def change_during_reads(self, row: int) -> None:
        """The snapshots do not show the change. Its notification arrives before the results."""
        self.begin_all()
        self.change(row)
        while self.world.sent:
            self.notify()
        while self.reads:
            self.end_read(0)

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.reads)
    def fail_read(self, number: int) -> None:
        read = self.reads.pop(number % len(self.reads))
        self.board.answered([read.scheduled], self.now, "the server went away")

    @rule(seconds=st.sampled_from([0.001, 0.5, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # -- invariants

    @invariant()
    def every_watch_is_read_at_some_time(self) -> None:
        for watch in self.watches:
            scheduled = self.board.schedule.of(watch)
            assert watch.is_over or scheduled is not None or self.is_under_way(watch)

    @invariant()
    def armed_watches_are_counted(self) -> None:
        armed = [w for w in self.board.watches if isinstance(w.phase, Armed)]
        assert self.board.arming.armed == len(armed)

    def is_under_way(self, watch: Watch) -> bool:
        under_way = [*self.waiting, *(read.scheduled for read in self.reads)]
        return any(scheduled.watch is watch for scheduled in under_way)

    @invariant()
    def no_change_is_lost(self) -> None:
        for watch in self.watches:
            row = watch.request.key[0]
            relies = isinstance(watch.phase, Armed) and not watch.is_over
            seen = None if watch.observation.is_absent else watch.observation.baseline[0]
            if relies and seen != self.world.values[row]:
                assert self.will_be_read(watch), f"the change of row {row} is lost"

    @invariant()
    def no_list_is_stale(self) -> None:
        table = self.table
        if table is None or table.change.done() or self.loaded is None:
            return
        if self.loaded != self.world.values:
            assert (
                WHOLE_TABLE in self.world.sent
                or self.world.unsent != self.seen_unsent
                or self.world.version != self.seen_version
            ), "the change of a row is lost for the list"

    def will_be_read(self, watch: Watch) -> bool:
        """Whether the row will be read before its interval has passed."""
        scheduled = self.board.schedule.of(watch)
        return (
            (scheduled is not None and scheduled.when <= self.now)
            or self.is_under_way(watch)
            or watch.request.key[0] in self.world.sent
            or self.world.unsent != self.seen_unsent
            or self.world.version != self.seen_version
        )
