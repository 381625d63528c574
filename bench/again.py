"""One session that waits for its row again and again, as workers do: latency, statements, rate."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final, TypedDict

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from counters import Statements
from goal import Goal
from latency import by_round, one_by_one
from part import Part
from section import Section
from spread import Spread, cell, extremes, ratios, short
from table import libpq_url, model, prepared
from turns import turns
from ways import (
    BY_SESSION,
    BY_WATCHER,
    Wait,
    Way,
    asyncpg_listener,
    by_session,
    by_watcher,
    install,
)
from writer_process import WriterProcess

FLOOR: Final = "asyncpg + ORM, one session (floor)"
EXPIRED: Final = "rowbell: row present and expired"
ROWS: Final = (1, 100)
P50_GOAL, P99_GOAL = Goal(1.05), Goal(1.25)

WRITER: Final = """
import itertools, sys, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True, prepare_threshold=0)
for i in itertools.count():
    connection.execute(
        f"UPDATE {sys.argv[2]} SET n = n + 1 WHERE id = %s", (i % int(sys.argv[3]) + 1,)
    )
"""


@dataclass(frozen=True)
class Kept:
    """How a session has its row when the wait begins.

    Attributes:
        expires: Whether a commit expires it.
        changes: Whether another of its attributes has a pending change.
    """

    expires: bool = True
    changes: bool = False

    @asynccontextmanager
    async def floor(self, engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        """A listener, and ``AsyncSession.get(populate_existing=True)``."""
        sessions: dict[int, AsyncSession] = {}
        async with asyncpg_listener(engine, table) as notified:

            async def wait(key: int, seen: int) -> int:
                session = await self._session(sessions, engine, key)
                await notified.wait(key)
                row = await session.get_one(model(table), key, populate_existing=True)
                return row.n

            yield wait
        await _close(sessions)

    @asynccontextmanager
    async def rowbell(self, engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        """``rowbell.wait_for_row_change`` with one session for each row."""
        await install(engine, table)
        sessions: dict[int, AsyncSession] = {}
        rows: dict[int, Any] = {}

        async def wait(key: int, seen: int) -> int:
            session = await self._session(sessions, engine, key)
            if self.changes and key in rows:
                rows[key].note = f"mine, {seen}"
            row = await rowbell.wait_for_row_change(session, model(table), key, since={"n": seen})
            rows[key] = row
            return row.n

        async with rowbell.RowWatcher(engine, mode="listen"):
            yield wait
        await _close(sessions)

    async def _session(
        self, sessions: dict[int, AsyncSession], engine: AsyncEngine, key: int
    ) -> AsyncSession:
        """The session of a row. Its last transaction ends before the wait."""
        session = sessions.get(key)
        if session is None:
            session = sessions[key] = AsyncSession(engine, expire_on_commit=self.expires)
        elif self.changes:
            await session.rollback()
        else:
            await session.commit()
        return session


async def _close(sessions: dict[int, AsyncSession]) -> None:
    for session in sessions.values():
        await session.close()


WAYS: Final[dict[str, Way]] = {
    FLOOR: Kept().floor,
    EXPIRED: Kept().rowbell,
    "rowbell: row present and loaded": Kept(expires=False).rowbell,
    "rowbell: row present, another attribute pending": Kept(changes=True).rowbell,
    BY_SESSION: by_session,
}

RATED: Final[dict[str, Way]] = {
    FLOOR: Kept().floor,
    EXPIRED: Kept().rowbell,
    BY_SESSION: by_session,
    BY_WATCHER: by_watcher,
}


class Latency(TypedDict):
    """The latency of one way in milliseconds, and its ratio to the floor of the same round."""

    p50: Spread
    p50_ratio: Spread
    p99_ratio: Spread
    statements: float


class Again(TypedDict):
    rounds: int
    changes: int
    seconds: float
    ways: dict[str, Latency]
    rates: dict[str, dict[str, Spread]]


async def statements(url: URL, way: Way, changes: int) -> float:
    """The number of statements for each wait, on all connections."""
    async with prepared(url, "counted", 1) as engine:
        counted = Statements(engine)
        with WriterProcess(url) as writer:
            async with way(engine, "counted") as wait:
                await one_by_one(wait, writer, "counted", count=5, seen=0)
                counted.count = 0
                await one_by_one(wait, writer, "counted", count=changes, seen=5)
                return short(counted.count / changes)


async def rate(url: URL, way: Way, rows: int, seconds: float) -> float:
    """The number of waits that end in a second, while another process writes all the time."""
    async with prepared(url, "rated", rows) as engine, way(engine, "rated") as wait:
        ended, deadline = 0, time.perf_counter() + seconds

        async def follow(key: int) -> None:
            nonlocal ended
            seen = 0
            while True:
                seen = await wait(key, seen)
                ended += time.perf_counter() < deadline

        arguments = [sys.executable, "-c", WRITER, libpq_url(url), "rated", str(rows)]
        tasks = [asyncio.create_task(follow(key)) for key in range(1, rows + 1)]
        process = await asyncio.create_subprocess_exec(*arguments)
        await asyncio.sleep(deadline - time.perf_counter())
        process.terminate()
        await process.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended / seconds


async def measure(url: URL, *, quick: bool) -> Again:
    """Measure the latencies, then the statements, then the rates."""
    rounds, changes, seconds = (2, 20, 1.0) if quick else (7, 80, 4.0)
    found = await by_round(url, WAYS, rounds, changes)
    p50 = {name: [median(taken) for taken in turns] for name, turns in found.items()}
    p99 = {name: [quantiles(t, n=100)[98] for t in turns] for name, turns in found.items()}
    ways = {
        name: Latency(
            p50=extremes(p50[name]),
            p50_ratio=extremes(ratios(p50[name], p50[FLOOR])),
            p99_ratio=extremes(ratios(p99[name], p99[FLOOR])),
            statements=await statements(url, way, changes),
        )
        for name, way in WAYS.items()
    }
    rated: dict[str, dict[int, list[float]]] = {name: {n: [] for n in ROWS} for name in RATED}
    for _, name in turns("rates", RATED, 2 if quick else 5):
        for rows in ROWS:
            rated[name][rows].append(await rate(url, RATED[name], rows, seconds))
    rates = {
        name: {str(rows): extremes(values) for rows, values in by_rows.items()}
        for name, by_rows in rated.items()
    }
    return Again(rounds=rounds, changes=changes, seconds=seconds, ways=ways, rates=rates)


def section(again: Again) -> Section:
    """The section of the page."""
    found = Section(
        "One session, again and again",
        "As the wake latency, but one session waits for its row each time, as workers do. The floor"
        " uses one session too: asyncpg's listener and `AsyncSession.get(populate_existing=True)`."
        f" {again['rounds']} rounds of {again['changes']} changes. *Statements* are those of a"
        " whole wait on all connections, heartbeats included. *Waits a second* are those that one"
        " process ends while another one commits changes without a pause: to one row, or to 100"
        " rows in turn.",
        ["way", "p50, ms", "p50 / floor", "p99 / floor", "statements", "goal: p50", "goal: p99"]
        + [f"waits a second, {rows} row{'s' * (rows > 1)}" for rows in ROWS],
    )
    for name in again["ways"] | again["rates"]:
        latency, rates = again["ways"].get(name), again["rates"].get(name)
        cells = [""] * 6
        if latency is not None:
            goals = ["", ""]
            if name != FLOOR:
                goals = [
                    P50_GOAL.verdict(latency["p50_ratio"]["median"]),
                    P99_GOAL.verdict(latency["p99_ratio"]["median"]),
                ]
            values = [latency["p50"], latency["p50_ratio"], latency["p99_ratio"]]
            cells = [*map(cell, values), f"{latency['statements']:.1f}", *goals]
        shown = [cell(rates[str(rows)], 0) if rates else "" for rows in ROWS]
        found.rows.append([name, *cells, *shown])
    return found


AGAIN = Part("again", measure, section)
