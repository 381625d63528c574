"""Ten thousand polled waits in one process."""

from __future__ import annotations

import asyncio
import random
import time
from statistics import median
from typing import TypedDict

from sqlalchemy import URL

import rowbell
from counters import Statements
from event_loop import blocks
from goal import Goal, row
from many_waits import begun
from part import Part
from section import Section
from spread import short
from table import connected, model, prepared
from turns import progress

WAITS = 10_000
TABLE = "polled"
INTERVAL = 0.5


class Polled(TypedDict):
    """The results: queries in each interval, seconds, percent of a core, milliseconds."""

    queries: float
    median: float
    latest: float
    cpu: float
    block: float


async def measure(url: URL, *, quick: bool) -> Polled:
    """Measure while single rows are changed at random moments."""
    seconds = 4 if quick else 20
    row, late = model(TABLE), list[float]()
    async with (
        connected(url) as writer,
        prepared(url, TABLE, WAITS) as engine,
        rowbell.RowWatcher(engine, mode="poll") as watcher,
    ):
        statements = Statements(engine)
        async with begun(watcher, row, WAITS, interval=INTERVAL) as waits:
            await watcher.reached(lambda now: now.rereads >= 5 * WAITS)
            statements.count, cpu, start = 0, time.process_time(), time.perf_counter()

            async def change(key: int) -> None:
                at = time.perf_counter()
                await writer.execute(f"UPDATE {TABLE} SET n = n + 1 WHERE id = $1", key)
                await waits[key - 1]
                late.append(time.perf_counter() - at)

            for key in random.sample(range(1, WAITS + 1), 20 * seconds):
                progress(f"polled: {time.perf_counter() - start:.0f} s")
                task = asyncio.create_task(change(key))
                await asyncio.sleep(0.05)
                await asyncio.wait([task])
            elapsed = time.perf_counter() - start
            cpu = 100 * (time.process_time() - cpu) / elapsed
            # Each change that is found ends a wait. Its instance needs one more statement.
            queries = (statements.count - len(late)) / (elapsed / INTERVAL)
            async with blocks() as found:
                await asyncio.sleep(seconds)
    return Polled(
        queries=short(queries),
        median=short(median(late)),
        latest=short(max(late)),
        cpu=short(cpu),
        block=short(max(found)),
    )


def section(polled: Polled) -> Section:
    """The section of the page."""
    return Section(
        f"{WAITS:,} polled waits",
        f"No trigger, interval {INTERVAL} s; single rows are changed at random moments.",
        ["", "measured", "goal"],
        [
            row("batched queries in each interval", polled["queries"], 1, "", Goal(2)),
            row("from commit to return, median", polled["median"], 2, " s"),
            row("from commit to return, the latest", polled["latest"], 2, " s", Goal(1.0, " s")),
            row("CPU of the process", polled["cpu"], 0, " %"),
            row("longest block of the event loop", polled["block"], 0, " ms"),
        ],
    )


POLLED = Part("polled", measure, section)
