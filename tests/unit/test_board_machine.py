"""The board and a model of the server take steps in any order, and no change is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from rowbell._watch.board import arming, phases
from rowbell._watch.board.board import Board
from rowbell._watch.board.phases import Armed, Phase, Proving
from rowbell._watch.board.table_watch import TableWatch
from support.board_machine import BoardMachine, Read
from support.world import World

STEPS = settings(
    max_examples=1_000,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_no_order_of_steps_loses_a_change() -> None:
    run_state_machine_as_test(BoardMachine, settings=STEPS)


def without_the_boundary(phase: Phase, event: phases.Event, now: float) -> Phase:
    """Accept any read after the registration as a proof."""
    after = phases.following(phase, event, now)
    is_read = isinstance(event, phases.Read)
    return Armed(now) if is_read and isinstance(after, Proving) else after


def without_a_look_at_the_locks(_world: World, _boundary: int) -> bool:
    """Assume that all writers have ended."""
    return True


def without_what_comes_during_a_read(
    board: Board, table_oid: int | None, keys: Iterable[int] | None
) -> None:
    """Assume that a running read shows changes that are notified during it."""
    under_way = {read.watch for read in board._under_way.values()}
    for watch in board.arming.registrations.watches_of(table_oid, keys):
        if watch not in under_way:
            board._read_notified(watch)


def prove(machine: BoardMachine) -> None:
    """A change is in flight during the registration. It commits after the second read."""
    machine.begin([0], written=True, registered=True)
    machine.read_all()
    machine.end(0, commits=True)


def prove_by_the_locks(machine: BoardMachine) -> None:
    machine.begin([0], written=True, registered=True)
    machine.look_at_once()
    machine.read_all()
    machine.end(0, commits=True)


def change_during_a_safety_read(machine: BoardMachine) -> None:
    machine.begin([0], written=False, registered=True)
    machine.read_all()
    machine.wait(60.0)
    machine.change_during_reads(0)


def change_during_the_first_read_of_the_next_wait(machine: BoardMachine) -> None:
    """The row is still registered, so that read arms the wait."""
    machine.begin([0], written=False, registered=True)
    machine.read_all()
    machine.change(0)
    machine.notify()
    machine.read_all()
    machine.add(0, waits_for_missing=False)
    machine.change_during_reads(0)


def without_one_snapshot(read: Read) -> int:
    """Take the evidence of a row that does not exist from a later snapshot."""
    return read.snapshot.xmin + 100


def appear_during_the_read_that_proves(machine: BoardMachine) -> None:
    """The row was inserted before its registration, and is committed after the snapshot."""
    machine.change(0, deletes=True)
    machine.connect()
    machine.add(0, waits_for_missing=True)
    machine.write(0, muted=False, deletes=False)
    machine.read_all()
    machine.register_and_answer()
    machine.begin_all()
    machine.end(0, commits=True)
    machine.end_read(0)


def before_the_proof(watch: TableWatch, _before: Phase, after: Phase) -> None:
    """Let the consumer load its list as soon as the table is registered."""
    if isinstance(after, Proving):
        watch.finish(True)  # noqa: FBT003


def load_while_a_change_is_in_flight(machine: BoardMachine) -> None:
    """It was made before the registration, and is committed after the load."""
    machine.connect()
    machine.watch_table()
    machine.write(0, muted=False, deletes=False)
    machine.read_all()
    machine.register_and_answer()
    if machine.table is not None and machine.table.is_over:
        machine.load()
    machine.end(0, commits=True)
    machine.read_all()
    machine.load()


ORDERS: list[tuple[object, str, object, Callable[[BoardMachine], None]]] = [
    (arming, "following", without_the_boundary, prove),
    (World, "is_without_writers", without_a_look_at_the_locks, prove_by_the_locks),
    (Board, "notified", without_what_comes_during_a_read, change_during_a_safety_read),
    (
        Board,
        "notified",
        without_what_comes_during_a_read,
        change_during_the_first_read_of_the_next_wait,
    ),
    (
        BoardMachine,
        "xmin_of",
        staticmethod(without_one_snapshot),
        appear_during_the_read_that_proves,
    ),
    (TableWatch, "moved", before_the_proof, load_while_a_change_is_in_flight),
]


@pytest.mark.parametrize(("owner", "name", "sabotaged", "steps"), ORDERS)
def test_without_a_step_of_the_protocol_a_change_is_lost(
    owner: object,
    name: str,
    sabotaged: object,
    steps: Callable[[BoardMachine], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With that step, the same order of steps loses no change."""
    machine = BoardMachine()
    steps(machine)
    machine.no_change_is_lost()
    machine.no_list_is_stale()
    machine.teardown()
    monkeypatch.setattr(owner, name, sabotaged)
    machine = BoardMachine()
    steps(machine)
    with pytest.raises(AssertionError, match="is lost"):
        machine.no_change_is_lost()
        machine.no_list_is_stale()
    machine.teardown()
