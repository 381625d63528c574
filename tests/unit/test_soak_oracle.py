"""The oracle finds each kind of fault in small handwritten logs, and raises no false alarm.

In all logs the row has version 10 at the start, and version 20 from a commit that was sent at 100 s
and acknowledged at 100.01 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from history import Stretches
from oracle import FALSE, LATE, LOST, RIGHT, Oracle

if TYPE_CHECKING:
    from log import Record

DELETED: dict[str, Any] = {"present": False, "mark": 0, "n": 0}


def written(
    token: str, number: int, sent: float, *, outcome: str = "committed", **entry: Any
) -> list[Record]:
    """The records of a transaction that writes the row."""
    done = sent + 0.01
    values = {"present": True, "mark": number, "n": number // 10, **entry}
    place = {"token": token, "table": "parcels", "key": 1, "number": number}
    return [
        {"kind": "commit", "token": token, "outcome": outcome, "sent": sent, "done": done},
        {"kind": "journal", **place, **values},
    ]


ROW = [*written("setup", 10, 0), *written("a", 20, 100)]


def wait(begun: float, ended: float, outcome: str, **facts: Any) -> Record:
    """The record of a wait for the row, by default since version 10."""
    return {
        "kind": "wait",
        "place": "steady",
        "table": "parcels",
        "key": 1,
        "begun": begun,
        "ended": ended,
        "outcome": outcome,
        "since": 10,
        "until": None,
        "column": "version",
        "timeout": None,
        "stop": None,
        "allow": 2,
        "asked": False,
        "seen": [20, 20, 2] if outcome == "changed" else None,
        "error": None,
        **facts,
    }


def fault(begun: float, ended: float, how: str = "crash") -> Record:
    """The record of a fault."""
    return {"kind": "fault", "how": how, "table": "parcels", "begun": begun, "ended": ended}


def verdict(*logged: Record) -> tuple[str, str]:
    """The oracle's verdict on the only wait in the logs."""
    [(_, found)] = Oracle(logged).verdicts()
    return found.word, found.why


@pytest.mark.parametrize(
    "record",
    [
        wait(90, 100.02, "changed"),
        wait(90, 111, "changed"),
        wait(110, 110.1, "changed"),
        wait(90, 95, "timeout", timeout=5),
        wait(90, 100, "cancelled"),
        wait(90, 111, "cancelled"),
        wait(70, 100.02, "changed", since=None),
        wait(110, 200, "cancelled", since=None),
        wait(99, 200, "cancelled", since=None),
    ],
)
def test_records_that_keep_the_promises_are_right(record: Record) -> None:
    assert verdict(*ROW, record) == (RIGHT, "")


def test_a_wait_that_sleeps_through_a_commit_is_lost() -> None:
    assert verdict(*ROW, wait(90, 130, "cancelled"))[0] == LOST
    assert verdict(*ROW, wait(90, 130, "timeout", timeout=40))[0] == LOST


def test_a_wait_without_since_is_lost_once_its_first_read_is_surely_over() -> None:
    assert verdict(*ROW, wait(80, 130, "cancelled", since=None))[0] == LOST
    assert verdict(*ROW, wait(95, 130, "cancelled", since=None))[0] == RIGHT


def test_a_wait_that_times_out_though_the_commit_was_before_its_deadline_is_lost() -> None:
    assert verdict(*ROW, wait(90, 101, "timeout", timeout=11))[0] == LOST
    # Shortly after a fault, its last read may have failed.
    assert verdict(*ROW, fault(95, 95), wait(90, 101, "timeout", timeout=11))[0] == RIGHT
    assert verdict(*ROW, wait(90, 106, "timeout", timeout=11))[0] == RIGHT


def test_a_wait_that_notices_long_afterwards_is_late() -> None:
    assert verdict(*ROW, wait(90, 115, "changed"))[0] == LATE
    assert verdict(*ROW, wait(110, 130, "changed"))[0] == LATE


def test_seconds_in_which_something_was_broken_do_not_count() -> None:
    assert verdict(*ROW, fault(101, 110), wait(90, 115, "changed")) == (RIGHT, "")
    assert verdict(*ROW, fault(101, 110), wait(90, 130, "changed"))[0] == LATE


def test_a_state_that_passes_need_not_be_noticed() -> None:
    third = written("b", 30, 108, n=3)
    until = {"since": None, "until": "third"}
    record = wait(90, 200, "cancelled", **until)
    assert verdict(*ROW, *third, *written("c", 40, 110), record)[0] == RIGHT
    assert verdict(*ROW, *third, *written("c", 40, 150), record)[0] == LOST


def test_columns_that_did_not_change_end_nothing() -> None:
    other = written("b", 30, 105, mark=20)
    record = wait(102, 200, "cancelled", since=20, column="mark")
    assert verdict(*ROW, *other, record)[0] == RIGHT
    assert verdict(*ROW, *other, {**record, "column": "version"})[0] == LOST


def test_a_timeout_or_a_cancellation_that_comes_late_is_late() -> None:
    assert verdict(*ROW, wait(30, 60, "timeout", timeout=5))[0] == LATE
    assert verdict(*ROW, wait(30, 60, "cancelled", stop=5))[0] == LATE


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (wait(90, 99, "changed"), "was not there during the wait"),
        (wait(90, 100.1, "changed", seen=[25, 25, 2]), "never committed"),
        (wait(90, 100.1, "changed", seen=[20, 19, 2]), "mark 19"),
        (wait(90, 100.1, "changed", since=20), "does not end it"),
        (wait(110, 111, "changed", seen=[10, 10, 1]), "was not there during the wait"),
        (wait(110, 111, "changed", since=None), "nothing had changed"),
        (wait(90, 100.1, "changed", since=None, until="third"), "does not end it"),
        (wait(90, 100.1, "not found"), "there all the time"),
        (wait(90, 100.1, "deleted"), "there all the time"),
        (wait(90, 94, "timeout", timeout=5), "timed out after"),
        (wait(90, 94, "closed", error="it was closed"), "nobody had closed it"),
        (wait(90, 94, "error", error="OSError: lost"), "raised OSError"),
    ],
)
def test_an_end_that_nothing_explains_is_false(record: Record, why: str) -> None:
    word, said = verdict(*ROW, record)
    assert word == FALSE
    assert why in said


def test_a_predicate_must_hold_for_what_is_returned() -> None:
    third = written("b", 30, 100.02, n=3)
    late = written("c", 40, 100.04)
    facts = {"since": None, "until": "third", "seen": [40, 40, 4]}
    record = wait(90, 100.1, "changed", **facts)
    assert verdict(*ROW, *third, *late, record) == (
        RIGHT,
        "",
    )  # the instance was refreshed afterwards
    assert verdict(*ROW, *third, *late, {**record, "asked": True})[0] == FALSE


def test_a_deletion_explains_that_nothing_is_found() -> None:
    gone = written("b", 30, 110, **DELETED)
    assert verdict(*ROW, *gone, wait(105, 110.1, "deleted", since=20)) == (RIGHT, "")
    assert verdict(*ROW, *gone, wait(120, 120.1, "not found", since=20)) == (RIGHT, "")
    assert verdict(*ROW, *gone, wait(120, 120.1, "deleted", since=20))[0] == FALSE
    assert verdict(*ROW, *gone, wait(105, 140, "cancelled", since=20))[0] == LOST


def test_what_closes_a_watcher_explains_its_waits() -> None:
    closing = {"kind": "closing", "place": "steady", "at": 93.9}
    assert verdict(*ROW, closing, wait(90, 94, "closed")) == (RIGHT, "")
    assert verdict(*ROW, closing, wait(90, 94, "closed", place="other"))[0] == FALSE


def test_rights_explain_an_error_only_while_they_are_missing() -> None:
    error = "ProgrammingError: permission denied for table parcels"
    missing = fault(92, 95, "rights on a table")
    assert verdict(*ROW, missing, wait(90, 94, "error", error=error)) == (RIGHT, "")
    assert verdict(*ROW, missing, wait(96, 97, "error", error=error))[0] == FALSE
    assert verdict(*ROW, missing, wait(90, 94, "error", error="OSError: lost"))[0] == FALSE


def test_a_commit_without_an_answer_counts_from_when_it_was_resolved() -> None:
    row = [*written("setup", 10, 0), *written("a", 20, 100, outcome="unknown")]
    resolved = {"kind": "resolved", "token": "a", "outcome": "committed", "at": 105.0}
    assert verdict(*row, wait(90, 130, "cancelled")) == (RIGHT, "")
    assert verdict(*row, resolved, wait(90, 130, "cancelled"))[0] == LOST
    assert verdict(*row, resolved, wait(90, 116, "changed")) == (RIGHT, "")


def test_a_transaction_that_was_rolled_back_may_not_be_in_the_journal() -> None:
    assert Oracle(written("a", 20, 100, outcome="rolled back")).wrong
    assert Oracle(ROW).wrong == []


def test_stretches_that_overlap_count_once() -> None:
    broken = Stretches([(10, 12), (11, 15), (20, 21)])
    assert broken.calm(0, 30) == 24
    assert broken.calm(14, 20.5) == 5
    assert broken.after(9, 2) == 16
    assert broken.touch(13, 14)
    assert not broken.touch(16, 19)
