"""The schedule and the interests of the board."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.board.registrations import Interest
from rowbell._watch.board.schedule import Schedule


class Due:
    due = math.inf


TIMES = st.integers(0, 12).map(float) | st.just(math.inf)


@given(
    st.lists(st.tuples(st.integers(0, 90), TIMES | st.just(-math.inf)) | st.none(), max_size=300)
)
def test_what_is_due_is_taken_and_nothing_else(steps: list[tuple[int, float] | None]) -> None:
    """Each watch when it was last said to be due, whatever was said of it before."""

    async def scheduled() -> None:
        clock = 0.0
        schedule = Schedule(lambda: clock)
        watches: list[Any] = [Due() for _ in range(91)]
        for step in steps:
            if step is None:
                clock += 1
                due = {watch for watch in watches if watch.due <= clock}
                assert schedule.next_due() <= min(watch.due for watch in watches)
                taken = schedule.take()
                assert len(taken) == len(due)
                assert set(taken) == due
                assert all(watch.due == math.inf for watch in taken)
                assert schedule.next_due() == min(watch.due for watch in watches)
            elif step[1] == -math.inf:
                schedule.now(watches[step[0]])
            else:
                schedule.at(watches[step[0]], step[1])

    asyncio.run(scheduled())


def test_the_schedule_does_not_grow_with_what_is_past() -> None:
    async def scheduled() -> int:
        watch: Any = Due()
        schedule = Schedule(lambda: 0.0)
        for when in range(10_000):
            schedule.at(watch, float(when))
        return len(schedule)

    assert asyncio.run(scheduled()) < 100


def test_a_watch_is_taken_once_though_it_stands_there_twice() -> None:
    async def scheduled() -> list[object]:
        watch: Any = Due()
        schedule = Schedule(lambda: 2.0)
        schedule.at(watch, 1.0)
        schedule.at(watch, 0.5)
        schedule.at(watch, 1.0)
        schedule.now(watch)
        schedule.now(watch)
        schedule.at(watch, 1.0)
        return [*schedule.take(), *schedule.take()]

    assert len(asyncio.run(scheduled())) == 1


def test_what_rings_already_goes_on_ringing_when_other_columns_are_registered() -> None:
    """A wait may have come meanwhile that relies on it."""
    interest = Interest((1, 2))
    interest.registered = frozenset({"a"})
    interest.watches = {object(): frozenset({"b"})}  # type: ignore[dict-item]
    assert interest.wanted == frozenset({"a", "b"})
    interest.registered = None
    assert interest.wanted is None
