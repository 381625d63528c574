"""Ten thousand follows in one process: of as many rows, and of one row."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

import rowbell
from counters import Statements
from event_loop import blocks
from goal import Goal, row
from many_waits import all_armed
from part import Part
from section import Section
from spread import Spread, extremes
from table import model, prepared
from turns import progress
from ways import install

FOLLOWS = 10_000
TABLE = "followed"

LABELS: dict[str, tuple[str, int, str, Goal | None]] = {
    "first": ("first states of {}: all delivered after", 2, " s", None),
    "first statements": ("statements until then", 0, "", Goal(100)),
    "idle queries": ("queries a second, armed and idle", 2, "", Goal(0.2)),
    "told": ("one UPDATE of {}: all told after its commit", 2, " s", None),
    "told statements": ("statements to tell them", 0, "", Goal(100)),
    "told block": ("longest block of the event loop until then", 0, " ms", None),
    "KiB": ("memory for each, its task included", 1, " KiB", Goal(8, " KiB")),
}
"""The measured values: label, digits, unit and goal, as for waits."""

WAYS = {
    "follow": (FOLLOWS, f"`follow` of {FOLLOWS:,} rows"),
    "same": (1, f"{FOLLOWS:,} `follow` of one row"),
    "many": (FOLLOWS, f"`follow_many` of {FOLLOWS:,} rows"),
}
"""The number of rows, and the heading of each way."""


class Followers(TypedDict):
    rounds: int
    idle: int
    ways: dict[str, dict[str, Spread]]


class Told:
    """Counts the states that were delivered."""

    def __init__(self) -> None:
        self.count = 0
        self._expected = 0
        self._reached = asyncio.Event()

    def one(self) -> None:
        """Another state was delivered."""
        self.count += 1
        if self.count >= self._expected:
            self._reached.set()

    async def until(self, expected: int) -> None:
        """Wait until that many were delivered."""
        self._expected = expected
        self._reached.clear()
        if self.count < expected:
            await self._reached.wait()


@asynccontextmanager
async def following(watcher: rowbell.RowWatcher, way: str) -> AsyncGenerator[Told]:
    """All follows of one way, each with a task, or one task for ``follow_many``."""
    told, row = Told(), model(TABLE)

    async def each(states: Any) -> None:
        async for _ in states:
            told.one()

    if way == "many":
        follows: list[Any] = [watcher.follow_many(row, range(1, FOLLOWS + 1))]
    else:
        keys = range(1, FOLLOWS + 1) if way == "follow" else [1] * FOLLOWS
        follows = [watcher.follow(row, key) for key in keys]
    tasks = [asyncio.create_task(each(states)) for states in follows]
    del follows
    yield told
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def change_all(engine: AsyncEngine) -> None:
    """Change all rows of the table."""
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE {TABLE} SET n = n + 1"))


async def one_round(engine: AsyncEngine, way: str, idle: float) -> dict[str, float]:
    """Begin, stay idle, and change all rows once."""
    found: dict[str, float] = {}
    statements = Statements(engine)
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:
        gc.collect()
        statements.count, begun = 0, time.perf_counter()
        async with following(watcher, way) as told:
            await told.until(FOLLOWS)
            found["first"] = time.perf_counter() - begun
            found["first statements"] = statements.count
            await all_armed(watcher, FOLLOWS)
            statements.count = 0
            await asyncio.sleep(idle)
            found["idle queries"] = statements.count / idle
            statements.count = -1  # the UPDATE itself does not count
            await change_all(engine)
            committed = time.perf_counter()
            async with blocks() as blocked:
                await told.until(2 * FOLLOWS)
            found["told"] = time.perf_counter() - committed
            found["told statements"] = statements.count
            found["told block"] = max(blocked)
    return found


async def memory(engine: AsyncEngine, way: str) -> float:
    """The KiB for each armed follow, according to Python's allocator."""
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:
        gc.collect()
        tracemalloc.start()
        async with following(watcher, way) as told:
            await told.until(FOLLOWS)
            await all_armed(watcher, FOLLOWS)
            gc.collect()
            used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return used / FOLLOWS / 1024


async def measure(url: URL, *, quick: bool) -> Followers:
    """Measure each way in several rounds."""
    rounds, idle = (1, 3) if quick else (5, 20)
    ways: dict[str, dict[str, Spread]] = {}
    for way, (rows, _) in WAYS.items():
        values: dict[str, list[float]] = {}
        async with prepared(url, TABLE, rows) as engine:
            await install(engine, TABLE)
            for number in range(rounds):
                progress(f"followers: {way}, round {number + 1} of {rounds}")
                for name, value in (await one_round(engine, way, idle)).items():
                    values.setdefault(name, []).append(value)
            values["KiB"] = [await memory(engine, way)]
        ways[way] = {name: extremes(taken) for name, taken in values.items()}
    return Followers(rounds=rounds, idle=idle, ways=ways)


def section(followers: Followers) -> Section:
    """The section of the page."""
    found = Section(
        f"{FOLLOWS:,} follows in one process",
        f"As the waits above, with triggers: {followers['rounds']} rounds, idle for"
        f" {followers['idle']} s in each, then one UPDATE of the rows. Each `follow` has a task"
        " that iterates; `follow_many` has one. Statements are counted on all connections, the"
        " listener's included. Values are median [least..most]. The goals are those of waits.",
        ["", "", "measured", "goal"],
    )
    for way, values in followers["ways"].items():
        rows = "all rows" if WAYS[way][0] > 1 else "the row"
        heading = WAYS[way][1]
        for name, (label, digits, unit, goal) in LABELS.items():
            cells = row(label.format(rows), values[name], digits, unit, goal)
            found.rows.append([heading, *cells])
            heading = ""
    return found


FOLLOWERS = Part("followers", measure, section)
