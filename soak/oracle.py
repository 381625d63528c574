"""Decides for each wait whether it was right: ``python soak/oracle.py DIRECTORY``.

It shares no code with rowbell. It knows only the logs. A wait is

LOST
    if it never noticed a state that should have ended it;
LATE
    if it noticed, or ended, later than allowed;
FALSE
    if no commit, deletion, fault or timeout explains how it ended;
RIGHT
    otherwise.

In case of doubt it decides for the wait. A state counts from the acknowledgment of its commit until
the next commit is sent. Seconds in which something was broken do not count.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from history import Key, State, Stretches, histories, window
from log import Record, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

RIGHT: Final = "right"
LOST: Final = "lost"
LATE: Final = "late"
FALSE: Final = "false"

BOUND: Final = 10.0
"""The calm seconds that a wait may take to notice, plus those from its watcher's timing."""

FIRST_READ: Final = 10.0
"""After that many calm seconds, a wait has certainly read its row for the first time."""

ANSWERED: Final = 4.0
"""A wait that times out so many seconds late got no answer to its last read, and says so."""

TOLERANCE: Final = 0.002

EXPLAINED: Final = {
    "rights on a table": re.compile(r"permission denied for table {table}"),
}
"""The errors that may end a wait, by the fault that explains them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The oracle's verdict on a wait.

    Attributes:
        word: ``RIGHT``, ``LOST``, ``LATE`` or ``FALSE``.
        why: A sentence, unless it is right.
        delay: The seconds from the acknowledgment of the commit that ended the wait to its end,
            if the acknowledgment came during the wait.
        calm: The calm seconds among these.
    """

    word: str
    why: str = ""
    delay: float | None = None
    calm: float = 0.0


class Oracle:
    """Judges the waits of a run.

    Args:
        logged: All records of the run.
        bound: The calm seconds that a wait may take, instead of ``BOUND``.

    Attributes:
        waits: The records of waits.
        commits: The records of transactions.
        faults: The records of faults.
        samples: The records of how waits were served.
        ends: The last records of processes.
        wrong: The errors in the logs themselves.
    """

    def __init__(self, logged: Iterable[Record], bound: float = BOUND) -> None:
        self._bound = bound
        every = list(logged)
        self._states, self.wrong = histories(every)
        self.waits = [record for record in every if record["kind"] == "wait"]
        self.commits = [record for record in every if record["kind"] == "commit"]
        self.faults = [record for record in every if record["kind"] == "fault"]
        self.samples = [record for record in every if record["kind"] == "sample"]
        self.ends = [record for record in every if record["kind"] == "end"]
        self._broken = Stretches((fault["begun"], fault["ended"]) for fault in self.faults)
        self._closings: defaultdict[str, list[float]] = defaultdict(list)
        for record in every:
            if record["kind"] == "closing":
                self._closings[record["place"]].append(record["at"])

    def verdicts(self) -> Iterator[tuple[Record, Verdict]]:
        """The verdict on each wait."""
        for wait in self.waits:
            yield wait, self.judge(wait)

    def states(self, key: Key) -> Sequence[State]:
        """The states of a key, in order."""
        return self._states.get(key, [])

    def judge(self, wait: Record) -> Verdict:
        """The verdict on a wait."""
        states = self.states((wait["table"], wait["key"]))
        seen = window(states, wait["begun"], wait["ended"])
        ends = self._ending(wait, [states[i] for i in seen])
        false = self._false(wait, states, seen, ends)
        if false:
            return Verdict(FALSE, false)
        return self._slept(wait, states, seen, ends)

    def _ending(self, wait: Record, seen: Sequence[State]) -> Callable[[State], bool]:
        """The condition for states that end the wait if they last long enough."""
        column, until, since = wait["column"], wait["until"], wait["since"]
        if until == "third":
            return lambda state: not state.present or state.n % 3 == 0
        above = until if until is not None else since
        if above is not None:
            return lambda state: not state.present or _watched(state, column) > above
        # The result of its first read is unknown, so changes count only after that read.
        surely = self._broken.after(wait["begun"], FIRST_READ)
        changes = (s.number for s in seen if s.sent >= surely and _touches(s, column))
        first = min(changes, default=None)
        return lambda state: (
            not state.present or (first is not None and _watched(state, column) >= first)
        )

    # -- waits that did not end in time

    def _slept(
        self, wait: Record, states: Sequence[State], seen: range, ends: Callable[[State], bool]
    ) -> Verdict:
        begun, ended, outcome = wait["begun"], wait["ended"], wait["outcome"]
        allowed = self._bound + wait["allow"]
        noticed = outcome in {"changed", "not found", "deleted"}
        delay, calm = None, 0.0
        for run in _runs(states, seen, ends):
            visible = min(states[i].done for i in run)
            over = states[run[-1] + 1].sent if run[-1] + 1 < len(states) else ended
            start, end = max(begun, visible), min(ended, over)
            if (overdue := self._broken.calm(start, end)) > allowed:
                word = LATE if noticed else LOST
                number = states[run[0]].number
                return Verdict(
                    word, f"{overdue:.1f} calm seconds of state {number}, then {outcome}"
                )
            if outcome == "timeout" and self._missed(wait, visible, over):
                why = f"timed out though state {states[run[0]].number} was there"
                return Verdict(LOST, why)
            if noticed and visible > begun:
                delay, calm = max(0.0, ended - visible), self._broken.calm(visible, ended)
        due = begun + min(_given(wait["timeout"]), _given(wait["stop"]))
        if (overdue := self._broken.calm(due, ended)) > allowed:
            return Verdict(
                LATE, f"ended {overdue:.1f} calm seconds after it should have: {outcome}"
            )
        return Verdict(RIGHT, "", delay, calm)

    def _missed(self, wait: Record, visible: float, over: float) -> bool:
        """Whether the last read, which begins after the deadline, must have seen the state."""
        deadline, ended = wait["begun"] + wait["timeout"], wait["ended"]
        return (
            visible <= deadline
            and over >= ended
            and ended - deadline < ANSWERED
            and not self._broken.touch(deadline - self._bound, ended)
        )

    # -- waits that ended in a wrong way

    def _false(
        self, wait: Record, states: Sequence[State], seen: range, ends: Callable[[State], bool]
    ) -> str:
        outcome, begun, ended = wait["outcome"], wait["begun"], wait["ended"]
        present = {states[i].present for i in seen} or {False}
        if outcome in {"not found", "deleted"} and False not in present:
            return f"{outcome}, and it was there all the time"
        if outcome == "deleted" and True not in present:
            return "deleted, and it was never there"
        if outcome == "timeout" and ended < begun + wait["timeout"] - TOLERANCE:
            return f"timed out after {ended - begun:.3f} of {wait['timeout']:.3f} s"
        if outcome == "closed" and not any(
            begun - 1 <= at <= ended for at in self._closings[wait["place"]]
        ):
            return f"closed, and nobody had closed it: {wait['error']}"
        if outcome == "error" and not self._explained(wait):
            return f"raised {wait['error']}"
        return self._false_change(wait, states, seen, ends) if outcome == "changed" else ""

    def _false_change(
        self, wait: Record, states: Sequence[State], seen: range, ends: Callable[[State], bool]
    ) -> str:
        number, mark, n = wait["seen"]
        place = next((i for i, s in enumerate(states) if s.present and s.number == number), None)
        if place is None:
            return f"returned version {number}, which was never committed"
        state, column = states[place], wait["column"]
        until_now = [states[i] for i in seen if i <= place]
        plain = wait["until"] is None and wait["since"] is None
        why = ""
        if (state.mark, state.n) != (mark, n):
            why = f"with mark {mark} and n {n} instead of {state.mark} and {state.n}"
        elif place not in seen:
            why = "which was not there during the wait"
        elif plain and not any(s.done >= wait["begun"] and _touches(s, column) for s in until_now):
            why = "and nothing had changed since it began"
        elif wait["asked"] and not ends(state):
            why = "for which its predicate does not hold"
        elif not plain and not any(ends(s) for s in until_now):
            why = "which does not end it"
        return why and f"returned version {number}, {why}"

    def _explained(self, wait: Record) -> bool:
        return any(
            fault["begun"] <= wait["ended"]
            and fault["ended"] >= wait["begun"]
            and re.search(
                EXPLAINED[fault["how"]].pattern.format(table=fault["table"]), wait["error"]
            )
            for fault in self.faults
            if fault["how"] in EXPLAINED
        )


def _watched(state: State, column: str) -> int:
    return state.number if column == "version" else state.mark


def _touches(state: State, column: str) -> bool:
    """Whether the watched column differs from the previous state."""
    return not state.present or _watched(state, column) == state.number


def _given(seconds: float | None) -> float:
    return 1e9 if seconds is None else seconds


def _runs(states: Sequence[State], seen: range, ends: Callable[[State], bool]) -> Iterator[range]:
    """The longest runs of consecutive states that all end the wait."""
    begin = None
    for i in seen:
        if ends(states[i]):
            begin = i if begin is None else begin
        elif begin is not None:
            yield range(begin, i)
            begin = None
    if begin is not None:
        yield range(begin, seen.stop)


def main() -> int:
    """Judge a run again from its logs."""
    oracle = Oracle(records(Path(sys.argv[1])))
    bad = [(w, v) for w, v in oracle.verdicts() if v.word != RIGHT]
    for wait, verdict in bad:
        print(f"{verdict.word}: {verdict.why}: {wait}")
        for state in oracle.states((wait["table"], wait["key"])):
            if state.done >= wait["begun"] - 5 and state.sent <= wait["ended"] + 5:
                print(f"    {state}")
    print(f"{len(oracle.waits):,} waits, {len(bad)} of them not right; {oracle.wrong[:5]}")
    return 1 if bad or oracle.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
