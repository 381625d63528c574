"""The board beside a model of the server, in steps of any order: no change is lost.

A change is lost where a watch relies on notifications, its row has another value than the watch
has seen, and nothing is left that would have the row read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rowbell import Timing
from rowbell._watch.board.board import Board
from rowbell._watch.board.watch import Arming, Reading, Turn, Watch
from rowbell._watch.rows.mapped_rows import Evidence
from world import TABLE, Snapshot, Transaction, World

ROWS = 3
SERVER = 1_764_000_000.0  # when it was started, in seconds

ROWS_OF_A_CLASS: Any = SimpleNamespace(
    registered=lambda _: (None,),
    watched_tables=(object(),),
    model=object,
    forms=SimpleNamespace(rules=lambda _: (None,), forget=lambda: None),
    describe=lambda key: {"id": key},
)


@dataclass
class Read:
    """A read under way: what it was begun with, and the snapshot that it has taken."""

    watch: Watch
    boundary: int | None
    snapshot: Snapshot
    has_evidence: bool


class BoardMachine(RuleBasedStateMachine):
    """The board, with writers, a listener and a reader that take one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1_000.0
        self.board = Board(lambda: self.now, Timing(), 30.0, lambda: None)
        self.world = World(ROWS)
        self.watches: list[Watch] = []
        self.waiting: list[Watch] = []  # taken from the board, and not read yet
        self.reads: list[Read] = []
        self.batch: list[Any] | None = None  # its registration is committed, the boundary is not
        self.look: tuple[list[int], int] | None = None
        self.seen_unsent = 0
        self.is_connected = False

    def teardown(self) -> None:
        self.loop.close()

    # -- watches

    @initialize(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=3))
    def begin(self, rows: list[int]) -> None:
        self.connect()
        for row in rows:
            self.add(row)

    @rule(row=st.integers(0, ROWS - 1))
    @precondition(lambda self: len(self.watches) < 5)
    def add(self, row: int) -> None:
        watch = Watch(
            rows=ROWS_OF_A_CLASS,
            key=(row,),
            columns=("n",),
            interval=60.0,
            timeout=None,
            deadline=math.inf,
            result=self.loop.create_future(),
        )
        self.watches.append(watch)
        self.board.add(watch)

    # -- writers

    @rule(row=st.integers(0, ROWS - 1), muted=st.booleans())
    @precondition(lambda self: len(self.world.running) < 3)
    def write(self, row: int, muted: bool) -> None:
        if not self.world.is_locked(row):
            self.world.write(self.world.begin(muted=muted), row)

    @rule()
    @precondition(lambda self: len(self.world.running) < 3)
    def idle_transaction(self) -> None:
        """It writes elsewhere, or later."""
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
        self.board.heard(SERVER)

    @rule()
    @precondition(lambda self: self.is_connected)
    def lose_connection(self) -> None:
        self.is_connected, self.batch, self.look = False, None, None
        self.world.lose_connection()
        self.board.unarm()

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def register(self) -> None:
        if batch := self.board.take_unregistered():
            self.batch = batch
            self.world.registered |= {interest.name[1] for interest, _ in batch}

    @rule()
    @precondition(lambda self: self.batch is not None)
    def registered(self) -> None:
        assert self.batch is not None
        self.board.registered(self.batch, self.world.assign_xid())
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
        self.board.ring(TABLE, [self.world.sent.pop(0)])

    @rule(row=st.integers(0, ROWS - 1))
    @precondition(lambda self: self.is_connected)
    def forge(self, row: int) -> None:
        self.board.ring(TABLE, [row])

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def heartbeat(self) -> None:
        if self.world.unsent != self.seen_unsent:
            self.seen_unsent = self.world.unsent
            self.board.distrust(self.world.assign_xid())

    @rule()
    @precondition(lambda self: self.is_connected and self.batch is None and self.look is None)
    def look_for_writers(self) -> None:
        tables, boundary = self.board.arming()
        if tables:
            found = self.world.is_without_writers(boundary)
            self.look = (tables if found else []), boundary

    @rule()
    @precondition(lambda self: self.look is not None)
    def looked_for_writers(self) -> None:
        assert self.look is not None
        self.board.clear(*self.look)
        self.look = None

    # -- the reader

    @rule()
    def take(self) -> None:
        self.waiting += self.board.take_due()

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.waiting)
    def begin_read(self, number: int) -> None:
        watch = self.waiting.pop(number % len(self.waiting))
        boundary = watch.boundary if watch.arming is Arming.ARMING else None
        evidence = self.board.hearing and watch.turn is not Turn.READING_RUNG
        self.reads.append(Read(watch, boundary, self.world.snapshot(), evidence))

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.reads)
    def end_read(self, number: int) -> None:
        read = self.reads.pop(number % len(self.reads))
        watch, row = read.watch, read.watch.key[0]
        if watch.observe(Reading((read.snapshot.values[row],))):
            watch.finish(None)
            self.board.discard(watch)
        elif read.has_evidence:
            evidence = Evidence(((TABLE, row),), read.snapshot.xmin, SERVER)
            self.board.consider(watch, evidence, read.boundary)
        self.board.answered([watch], self.now)

    @rule()
    def read_all(self) -> None:
        """All that is due, at once."""
        self.take()
        while self.waiting:
            self.begin_read(0)
        while self.reads:
            self.end_read(0)

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.reads)
    def fail_read(self, number: int) -> None:
        read = self.reads.pop(number % len(self.reads))
        self.board.answered([read.watch], self.now, "the server went away")

    @rule(seconds=st.sampled_from([0.001, 0.5, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # -- what holds at any time

    @invariant()
    def no_change_is_lost(self) -> None:
        for watch in self.watches:
            row = watch.key[0]
            relies = watch.arming is Arming.ARMED and not watch.over
            if relies and watch.baseline != (self.world.values[row],):
                assert self.will_be_read(watch), f"the change of row {row} is lost"

    def will_be_read(self, watch: Watch) -> bool:
        """Whether something is left that has the row read, without waiting for its interval."""
        return (
            watch.due <= self.now
            or watch in self.waiting
            or any(read.watch is watch for read in self.reads)
            or watch.key[0] in self.world.sent
            or self.world.unsent != self.seen_unsent
        )


STEPS = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_order_of_steps_loses_a_change() -> None:
    run_state_machine_as_test(BoardMachine, settings=STEPS)


def armed_at_once(watch: Watch, *_: object) -> None:
    if watch.arming is Arming.ARMING:
        watch.arming = Arming.ARMED


@pytest.mark.parametrize("sabotage", [armed_at_once])
def test_without_the_proof_a_change_is_lost(
    sabotage: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "prove", sabotage)
    with pytest.raises(AssertionError, match="is lost"):
        run_state_machine_as_test(BoardMachine, settings=settings(STEPS, max_examples=3_000))
