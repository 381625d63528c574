"""The commits and the faults with their times, read only from the logs.

A *state* is a row, or its absence, after one transaction. Its number gives its place among the
states of its key. It became visible at some time between the moment at which COMMIT was sent and
the moment at which COMMIT was acknowledged.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from log import Record

Key: TypeAlias = tuple[str, int]
"""A row: the name of its table, and its key."""

MAYBE: Final = {"committed", "unknown"}
"""The outcomes for which a transaction may be in the journal."""


class State(NamedTuple):
    """A row after one transaction.

    Attributes:
        number: Increases from state to state of a key. It is ``version`` if the row is present.
        present: Whether the row exists.
        mark: Its column ``mark``.
        n: Its column ``n``.
        sent: The time at which its COMMIT was sent.
        done: The time at which its COMMIT was acknowledged; infinite if it never was.
    """

    number: int
    present: bool
    mark: int
    n: int
    sent: float
    done: float


class Stretches:
    """The periods in which something was broken.

    Args:
        stretches: The begin and the end of each.
    """

    def __init__(self, stretches: Iterable[tuple[float, float]]) -> None:
        self._begins = [-math.inf]
        self._ends = [-math.inf]
        self._before = [0.0]
        for begin, end in sorted(stretches):
            if begin <= self._ends[-1]:
                grown = max(end, self._ends[-1])
                self._ends[-1] = grown
            else:
                past = self._ends[-1] - self._begins[-1] if len(self._begins) > 1 else 0.0
                self._before.append(self._before[-1] + past)
                self._begins.append(begin)
                self._ends.append(end)

    def broken(self, until: float) -> float:
        """The seconds before ``until`` in which something was broken."""
        i = bisect_right(self._begins, until) - 1
        return self._before[i] + (min(until, self._ends[i]) - self._begins[i] if i else 0.0)

    def calm(self, begin: float, end: float) -> float:
        """The seconds between two times in which nothing was broken."""
        if end <= begin:
            return 0.0
        return end - begin - (self.broken(end) - self.broken(begin))

    def touch(self, begin: float, end: float) -> bool:
        """Whether something was broken at some moment between two times."""
        i = bisect_right(self._begins, end) - 1
        return i > 0 and self._ends[i] >= begin

    def after(self, begin: float, seconds: float) -> float:
        """The time at which that many calm seconds have passed."""
        when = begin + seconds
        while (calm := self.calm(begin, when)) < seconds - 1e-9:
            when += seconds - calm
        return when


def histories(records: Iterable[Record]) -> tuple[dict[Key, list[State]], list[str]]:
    """The states of each key in order, and the errors in the logs themselves.

    Args:
        records: All records of a run.
    """
    commits: dict[str, Record] = {}
    resolved: dict[str, float] = {}
    last: dict[tuple[str, Key], Record] = {}
    for record in records:
        if record["kind"] == "commit":
            commits[record["token"]] = record
        elif record["kind"] == "resolved" and record["outcome"] == "committed":
            resolved[record["token"]] = record["at"]
        elif record["kind"] == "journal":
            # A transaction may change a row more than once. Others see only the last version.
            place = record["token"], (record["table"], record["key"])
            if place not in last or last[place]["number"] < record["number"]:
                last[place] = record
    found: defaultdict[Key, list[State]] = defaultdict(list)
    wrong: list[str] = []
    for (token, key), entry in last.items():
        commit = commits.get(token)
        if commit is None or commit["outcome"] not in MAYBE:
            outcome = commit["outcome"] if commit else "not in the logs"
            wrong.append(f"transaction {token} is committed, and {outcome}")
            continue
        done = commit["done"]
        if commit["outcome"] == "unknown":
            done = resolved.get(token, math.inf)
        sent, present = commit["sent"], entry["present"]
        found[key].append(State(entry["number"], present, entry["mark"], entry["n"], sent, done))
    for key, states in found.items():
        states.sort()
        wrong += [
            f"{key}: {later.number} was committed before {earlier.number}"
            for earlier, later in pairwise(states)
            if later.done < earlier.sent
        ]
    return dict(found), wrong


def window(states: Sequence[State], begin: float, end: float) -> range:
    """The states that a read between two times may have seen."""
    # Acknowledgments of neighboring states may arrive in another order than the commits.
    first = len(states)
    seen = math.inf
    for i in range(len(states) - 1, -1, -1):
        if seen < begin:
            break
        seen = min(seen, states[i].done)
        first = i
    past = first
    while past < len(states) and states[past].sent <= end:
        past += 1
    return range(first, past)
