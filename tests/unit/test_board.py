"""The board, with a clock and a server of the test's own: what arms a watch, and what must not."""

from __future__ import annotations

import asyncio
import importlib
import math
from types import SimpleNamespace
from typing import Any

import pytest

from check import modelled
from rowbell._watch.board.board import Board
from rowbell._watch.board.watch import Arming, Reading, Watch
from rowbell._watch.rows.mapped_rows import Evidence
from rowbell._watch.timing import Timing
from support.paths import ROOT

SERVER = 1_764_000_000.0  # when it was started
NAMES = ((16384, 7),)  # the table's oid, and the hash of the row's key
SQL = ROOT / "src" / "rowbell" / "_watch" / "database" / "sql"


class Scene:
    """One watch on one row, and the reads of it, in steps."""

    def __init__(self) -> None:
        self.board = Board(lambda: 0.0, Timing(), 30.0, lambda: None)
        self.rows: Any = SimpleNamespace(
            registered=lambda _: (None,),
            watched_tables=(object(),),
            model=object,
            forms=SimpleNamespace(rules=lambda _: (None,), forget=lambda: None),
        )
        self.board.heard(SERVER)
        self.watch = self.begun()
        self.read("old", xmin=10)
        self.batch = self.board.take_unregistered()
        self.board.registered(self.batch, 11)

    def begun(self) -> Watch:
        watch = Watch(
            rows=self.rows,
            key=(1,),
            columns=("n",),
            interval=60.0,
            timeout=None,
            deadline=math.inf,
            result=asyncio.get_running_loop().create_future(),
        )
        self.board.add(watch)
        return watch

    def begin(self) -> int | None:
        """A read takes its snapshot; returns the boundary that it must prove."""
        assert self.board.take_due() == [self.watch]
        return self.watch.boundary if self.watch.arming is Arming.ARMING else None

    def end(self, boundary: int | None, value: object, xmin: int) -> None:
        """Its result is taken in."""
        if self.watch.observe(Reading((value,))):
            self.watch.finish(None)
        else:
            evidence = Evidence(NAMES, xmin, SERVER)
            self.board.consider(self.watch, evidence, boundary)
        self.board.answered([self.watch], 0.0)

    def is_armed(self) -> bool:
        return self.watch.arming is Arming.ARMED

    def read(self, value: object, xmin: int) -> None:
        self.end(self.begin(), value, xmin)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


def test_each_name_in_the_model_is_one_of_the_code() -> None:
    for name in modelled():
        module, _, attribute = name.partition(":")
        if module == "sql":
            assert (SQL / attribute).is_file(), name
            continue
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


async def test_a_read_above_the_boundary_arms(scene: Scene) -> None:
    scene.read("old", xmin=11)
    assert not scene.is_armed()
    scene.board.schedule.now(scene.watch)
    scene.read("old", xmin=12)
    assert scene.is_armed()


async def test_a_look_at_the_lock_table_arms_the_next_read(scene: Scene) -> None:
    scene.board.clear([16384], 11)
    scene.read("old", xmin=5)
    assert scene.is_armed()


async def test_a_read_from_before_a_gap_proves_nothing_after_it(scene: Scene) -> None:
    """Though the lock table was found clear both before and after."""
    scene.board.clear([16384], 11)
    boundary = scene.begin()
    # A writer that could not notify counts, and commits after that read's snapshot.
    scene.board.distrust(13)
    scene.board.clear([16384], 13)
    scene.end(boundary, "old", xmin=5)
    assert not scene.is_armed()
    scene.read("new", xmin=5)
    assert scene.watch.over


async def test_a_row_that_is_registered_again_is_proven_again(scene: Scene) -> None:
    """It may have been deleted in between, and a writer may have found nothing there."""
    scene.read("old", xmin=20)
    assert scene.is_armed()
    scene.board.registered(scene.batch, 25)
    assert not scene.is_armed()
    scene.read("new", xmin=26)
    assert scene.watch.over


async def test_a_watch_that_a_read_has_armed_is_not_read_again_for_that(scene: Scene) -> None:
    boundary = scene.begin()
    scene.board.clear([], 0)
    scene.end(boundary, "old", xmin=20)
    assert scene.is_armed()
    assert scene.watch.due > 0


async def test_a_notification_during_a_read_causes_another(scene: Scene) -> None:
    boundary = scene.begin()
    scene.board.ring(16384, [7])
    scene.end(boundary, "old", xmin=20)
    assert scene.is_armed()
    scene.read("new", xmin=20)
    assert scene.watch.over
