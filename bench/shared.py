"""A fleet on one LISTEN: many processes, each with notifiers that have their own connections."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

import asyncpg
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from goal import Goal, row
from part import Part
from processes import Processes
from relayed import broker
from rowbell.relay import Relay, RelayState
from section import Section
from spread import Spread, extremes
from table import connect, connected, prepared
from turns import progress
from ways import install

TABLE = "shared"
PROCESSES, NOTIFIERS, WAITS = 20, 10, 100
ALL = PROCESSES * NOTIFIERS * WAITS
HOUR = 3_600

LISTENING = "SELECT count(DISTINCT backend_pid) FROM rowbell.listener"

MEASURED: dict[str, tuple[str, int, str, Goal | None]] = {
    "listening": ("connections that listen", 0, "", Goal(1)),
    "armed": ("all waits begun at once: armed after", 1, " s", None),
    "arming": ("statements of the relay meanwhile", 0, "", None),
    "alone": ("statements a second of a relay without sessions", 1, "", None),
    "idle": ("the same with 200 sessions that ping each second", 1, "", None),
    "woken": (f"waits woken, of {ALL:,}", 0, "", None),
    "last": ("one UPDATE of all rows: the last wait has returned after", 2, " s", None),
    "waking": ("statements of the relay meanwhile, and while all wait again", 0, "", None),
}


class Shared(TypedDict):
    rounds: int
    idle: int
    measured: dict[str, Spread]


class Statements:
    """Counts the statements on a relay's connection that listens."""

    def __init__(self, url: URL) -> None:
        self.count = 0
        self._url = url

    async def connect(self) -> asyncpg.Connection[Any]:
        """A connection that is counted."""
        made = await connect(self._url)
        made.add_query_logger(self._one_more)
        return made

    def _one_more(self, _: object) -> None:
        self.count += 1

    async def each_second(self, seconds: int) -> float:
        """The statements a second."""
        before = self.count
        await asyncio.sleep(seconds)
        return (self.count - before) / seconds


async def one_round(url: URL, engine: AsyncEngine, idle: int) -> dict[str, float]:
    """Start all processes, idle, and change all rows."""
    found: dict[str, float] = {}
    statements = Statements(url)
    async with (
        broker() as (nats, _),
        Relay(engine, nats=nats, insecure=True, listen_connect=statements.connect) as relay,
        connected(url) as observer,
    ):
        await relay.reached(lambda now: now.state is RelayState.LEADING)
        found["alone"] = await statements.each_second(idle)
        given: dict[str, Any] = {"url": url.render_as_string(), "table": TABLE, "through": nats}
        given |= {"watchers": NOTIFIERS, "waits": WAITS, "interval": HOUR}
        before, begun = statements.count, time.perf_counter()
        async with Processes("watching_process.py", PROCESSES, **given) as processes:
            await processes.reached(lambda: processes.total("armed") == ALL)
            found["armed"] = time.perf_counter() - begun
            found["arming"] = statements.count - before
            found["idle"] = await statements.each_second(idle)
            found["listening"] = await observer.fetchval(LISTENING)
            before = statements.count
            await observer.execute(f"UPDATE {TABLE} SET n = n + 1")
            committed = time.monotonic()
            await processes.reached(lambda: processes.total("woken") == ALL)
            found["last"] = processes.most("last") - committed
            found["woken"] = processes.total("woken")
            await processes.reached(lambda: processes.total("armed") == ALL)
            found["waking"] = statements.count - before
            await observer.execute(f"UPDATE {TABLE} SET n = 0")
    return found


async def measure(url: URL, *, quick: bool) -> Shared:
    """Measure several rounds."""
    rounds, idle = (1, 5) if quick else (3, 20)
    values: dict[str, list[float]] = {}
    async with prepared(url, TABLE, ALL) as engine:
        await install(engine, TABLE)
        for number in range(rounds):
            progress(f"shared: round {number + 1} of {rounds}")
            for name, value in (await one_round(url, engine, idle)).items():
                values.setdefault(name, []).append(value)
    measured = {name: extremes(found) for name, found in values.items()}
    return Shared(rounds=rounds, idle=idle, measured=measured)


def section(shared: Shared) -> Section:
    """The section of the page."""
    return Section(
        f"{PROCESSES * NOTIFIERS} sessions on one LISTEN",
        f"{PROCESSES} processes with {NOTIFIERS} watchers each, which listen through one relay and"
        " NATS, each with a connection and a session of its own; each watcher has waits for"
        f" {WAITS} rows, its own. All start at once; idle for {shared['idle']} s; then one UPDATE"
        f" changes all rows, and all wait again. {shared['rounds']} rounds: median [least..most]."
        " The statements are those on the relay's connection to PostgreSQL.",
        ["", "measured", "goal"],
        [
            row(label, shared["measured"][name], digits, unit, goal)
            for name, (label, digits, unit, goal) in MEASURED.items()
        ],
    )


SHARED = Part("shared", measure, section)
