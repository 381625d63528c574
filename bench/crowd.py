"""Ten thousand waits in one process: they begin at once, idle, and end by one UPDATE."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from typing import TypedDict

from sqlalchemy import URL, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from counters import Statements, connections
from event_loop import blocks
from goal import Goal, row
from many_waits import all_armed, armed
from part import Part
from section import Section
from spread import Spread, extremes
from table import Row, connected, model, prepared
from turns import progress
from ways import install

WAITS = 10_000
TABLE = "crowd"

MEASURED: dict[str, tuple[str, int, str, Goal | None]] = {
    "connections": ("connections to the server, armed and idle", 0, "", Goal(1)),
    "idle queries": ("queries a second, idle", 2, "", Goal(0.2)),
    "idle CPU": ("CPU of the process, idle", 2, " %", Goal(0.05, " %")),
    "idle block": ("longest block of the event loop, idle", 0, " ms", None),
    "KiB": ("memory for each wait, its task included", 1, " KiB", Goal(8, " KiB")),
    "armed": ("all waits begun at once: armed after", 2, " s", Goal(2, " s")),
    "arming statements": ("statements to arm them", 0, "", Goal(100)),
    "returned": ("one UPDATE of all rows: all waits returned after its commit", 2, " s", None),
    "returned / ORM": ("that, divided by one read of all rows by the ORM", 2, "", Goal(2)),
    "returning statements": ("statements to end all waits", 0, "", Goal(100)),
    "returning block": ("longest block of the event loop until then", 0, " ms", None),
    "session statements": ("statements, each wait with its own session", 0, "", Goal(10_100)),
}
"""The measured values, by their key in the numbers: label, digits, unit and goal."""


class Crowd(TypedDict):
    rounds: int
    idle: int
    measured: dict[str, Spread]


async def change_all(engine: AsyncEngine) -> None:
    """Change all rows of the table."""
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE {TABLE} SET n = n + 1"))


async def read_all(engine: AsyncEngine, row: type[Row]) -> float:
    """The time in seconds in which the ORM reads all rows once."""
    async with AsyncSession(engine) as session:
        begun = time.perf_counter()
        list(await session.scalars(select(row)))
        return time.perf_counter() - begun


class Measurement:
    """The values of all rounds, by name."""

    def __init__(self, url: URL, engine: AsyncEngine, idle: int) -> None:
        self.values: dict[str, list[float]] = {}
        self._url, self._engine, self._idle = url, engine, idle
        self._row, self._statements = model(TABLE), Statements(engine)

    def note(self, name: str, value: float) -> None:
        """Add one value."""
        self.values.setdefault(name, []).append(value)

    async def round(self, *, first: bool) -> None:
        """Begin all waits, stay idle in the first round, and change all rows."""
        async with rowbell.RowWatcher(self._engine, mode="listen") as watcher:
            gc.collect()
            self._statements.count, begun = 0, time.perf_counter()
            async with armed(watcher, self._row, WAITS) as waits:
                self.note("armed", time.perf_counter() - begun)
                self.note("arming statements", self._statements.count)
                if first:
                    await self._stay_idle()
                await self._end(waits)
        await self._with_sessions()

    async def _stay_idle(self) -> None:
        self._statements.count, cpu = 0, time.process_time()
        await asyncio.sleep(self._idle)
        self.note("idle queries", self._statements.count / self._idle)
        self.note("idle CPU", 100 * (time.process_time() - cpu) / self._idle)
        await self._engine.dispose()
        async with connected(self._url) as observer:
            self.note("connections", await connections(observer))
        async with blocks() as found:
            await asyncio.sleep(self._idle)
        self.note("idle block", max(found))

    async def _end(self, waits: list[asyncio.Task[Row]]) -> None:
        read = min([await read_all(self._engine, self._row) for _ in range(3)])
        self._statements.count = -1  # the UPDATE itself does not count
        await change_all(self._engine)
        committed = time.perf_counter()
        async with blocks() as found:
            await asyncio.wait(waits)
        taken = time.perf_counter() - committed
        self.note("returned", taken)
        self.note("returned / ORM", taken / read)
        self.note("returning statements", self._statements.count)
        self.note("returning block", max(found))

    async def _with_sessions(self) -> None:
        async with rowbell.RowWatcher(self._engine, mode="listen") as watcher:

            async def one(key: int) -> None:
                async with AsyncSession(self._engine) as session:
                    await rowbell.wait_for_row_change(session, self._row, key)

            tasks = [asyncio.create_task(one(key)) for key in range(1, WAITS + 1)]
            await all_armed(watcher, WAITS)
            self._statements.count = -1
            await change_all(self._engine)
            await asyncio.gather(*tasks)
        self.note("session statements", self._statements.count)

    async def memory(self) -> None:
        """The KiB for each wait, including its task, according to Python's allocator."""
        async with rowbell.RowWatcher(self._engine, mode="listen") as watcher:
            gc.collect()
            tracemalloc.start()
            async with armed(watcher, self._row, WAITS):
                self.note("KiB", tracemalloc.get_traced_memory()[0] / WAITS / 1024)
            tracemalloc.stop()


async def measure(url: URL, *, quick: bool) -> Crowd:
    """Measure several rounds. The first has an idle time."""
    rounds, idle = (2, 5) if quick else (5, 60)
    async with prepared(url, TABLE, WAITS) as engine:
        await install(engine, TABLE)
        measurement = Measurement(url, engine, idle)
        for number in range(rounds):
            progress(f"crowd: round {number + 1} of {rounds}")
            await measurement.round(first=number == 0)
        await measurement.memory()
    measured = {name: extremes(values) for name, values in measurement.values.items()}
    return Crowd(rounds=rounds, idle=idle, measured=measured)


def section(crowd: Crowd) -> Section:
    """The section of the page."""
    return Section(
        f"{WAITS:,} waits in one process",
        f"For {WAITS:,} rows, with triggers; {crowd['rounds']} rounds, idle for {crowd['idle']} s"
        " in the first of them. Statements are counted on all connections, the listener's"
        " included. The ORM reads the rows in the same process while the waits are armed. A block"
        " of the event loop is a time in which it runs nothing else, without the garbage"
        " collector's time; the one for idle waits is measured over a second idle time. Values are"
        " median [least..most].",
        ["", "measured", "goal"],
        [
            row(label, crowd["measured"][name], digits, unit, goal)
            for name, (label, digits, unit, goal) in MEASURED.items()
        ],
    )


CROWD = Part("crowd", measure, section)
