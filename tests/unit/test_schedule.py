"""The schedule: the last time and cause that were set for a watch are used for its read."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.board.schedule import NOW, Schedule, Why

TIMES = st.integers(0, 12).map(float) | st.just(math.inf) | st.just(NOW)


class AWatch:
    """A stand-in for a watch. The schedule accepts any object."""


@given(
    st.lists(st.tuples(st.integers(0, 90), TIMES, st.sampled_from(Why)) | st.none(), max_size=300)
)
def test_what_is_due_is_taken_and_nothing_else(
    steps: list[tuple[int, float, Why] | None],
) -> None:
    clock, wakes = 0.0, list[float]()
    schedule = Schedule(lambda: clock, lambda: wakes.append(clock))
    watches: list[Any] = [AWatch() for _ in range(91)]
    expected: dict[Any, tuple[float, Why]] = {}
    for step in steps:
        if step is None:
            clock += 1
            due = {watch: why for watch, (when, why) in expected.items() if when <= clock}
            earliest = min((when for when, _ in expected.values()), default=math.inf)
            assert schedule.next_due() <= earliest
            taken = schedule.take()
            assert {read.watch: read.why for read in taken} == due
            assert len(taken) == len(due)
            for watch in due:
                del expected[watch]
            left = min((when for when, _ in expected.values()), default=math.inf)
            assert schedule.next_due() == left
        else:
            number, when, why = step
            schedule.put(watches[number], when, why)
            expected.pop(watches[number], None)
            if when < math.inf:
                expected[watches[number]] = when, why


def test_it_does_not_grow_with_what_is_outdated() -> None:
    watch: Any = AWatch()
    schedule = Schedule(lambda: 0.0, lambda: None)
    for when in range(10_000):
        schedule.put(watch, float(when), Why.DUE)
    assert len(schedule._at) < 100


def test_a_watch_that_is_removed_is_not_read() -> None:
    watch: Any = AWatch()
    schedule = Schedule(lambda: 5.0, lambda: None)
    schedule.put(watch, NOW, Why.DUE)
    schedule.put(watch, 3.0, Why.DUE)
    schedule.remove(watch)
    assert schedule.take() == []
    assert schedule.of(watch) is None


def test_the_reader_is_woken_by_what_is_earlier() -> None:
    woken: list[None] = []
    watch: Any = AWatch()
    schedule = Schedule(lambda: 0.0, lambda: woken.append(None))
    schedule.put(watch, 7.0, Why.DUE)
    schedule.put(AWatch(), 7.0, Why.DUE)  # type: ignore[arg-type]
    assert len(woken) == 1
    schedule.put(watch, NOW, Why.NOTIFIED)
    assert len(woken) == 2
