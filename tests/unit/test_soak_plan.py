"""The same seed gives the same operations; another seed gives different ones."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import pytest

import plan
from statements import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = 1000


@pytest.mark.parametrize("draw", [plan.waits, plan.writes])
def test_an_operation_depends_on_seed_actor_and_place_alone(
    draw: Callable[[int, str], Iterator[Any]],
) -> None:
    def first(seed: int, actor: str) -> list[Any]:
        return list(islice(draw(seed, actor), FIRST))

    actors = ["steady0-0", "steady0-1", "alone0-7", "writer0-0", "writer1-0"]
    operations = [first(7, actor) for actor in actors]
    assert [first(7, actor) for actor in reversed(actors)] == operations[::-1]
    assert all(one != other for one, other in pairwise(operations))
    assert all(first(8, actor) != drawn for actor, drawn in zip(actors, operations, strict=True))


def test_faults_depend_on_the_seed_alone() -> None:
    drawn = list(islice(plan.faults(7), FIRST))
    assert list(islice(plan.faults(7), FIRST)) == drawn
    assert list(islice(plan.faults(8), FIRST)) != drawn
    kinds = len(plan.FAULTS)
    assert {fault.how for fault in drawn[:kinds]} == set(plan.FAULTS)


def test_whatever_is_planned_can_be_done() -> None:
    assert set(plan.WRITERS) == {*STATEMENTS, "unit of work"}
    assert {wait.aim for wait in islice(plan.waits(7, "steady0-0"), FIRST)} == set(plan.AIMS)
    for write in islice(plan.writes(7, "writer0-0"), FIRST):
        assert list(write.keys) == sorted(set(write.keys))
        assert 1 <= write.keys[0] <= write.keys[-1] <= plan.ROWS[write.table]
    assert all(wait.with_session for wait in islice(plan.waits(7, "alone0-0"), FIRST))
