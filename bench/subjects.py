"""What a relay can send: one row, for which a thousand sessions wait, changes again and again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import nats
from sqlalchemy import URL

from part import Part
from processes import Processes, cpu
from relayed import broker, is_nats, relay
from section import Section
from spread import Spread, cell, extremes
from table import connected, prepared
from turns import progress
from ways import install

TABLE = "subjects"
PROCESSES, SESSIONS = 10, 100
ALL = PROCESSES * SESSIONS
PAYLOAD = b"x" * 90
"""A message of a relay is about as long."""

NATS, SOCKET = "NATS", "unix socket"
BROKER = "the broker alone"


class Taken(TypedDict):
    """One way. Processor times are in microseconds: of the relay, the broker and the sessions."""

    ping: dict[str, Spread]
    notification: dict[str, Spread]
    rate: Spread


class Subjects(TypedDict):
    rounds: int
    seconds: int
    ways: dict[str, Taken]
    broker: Spread  # notifications a second of the broker alone


Times = dict[str, float]


class Parts:
    """The processor times of the parts."""

    def __init__(self, relay: int, broker: int | None, processes: Processes) -> None:
        self._pids = {"relay": [relay], "sessions": processes.pids}
        if broker is not None:
            self._pids["broker"] = [broker]

    def now(self) -> Times:
        """The processor time of each part until now, in seconds."""
        return {name: cpu(pids) for name, pids in self._pids.items()}

    def since(self, before: Times, count: float) -> Times:
        """The microseconds of each part since then, for each of so many."""
        return {name: 1e6 * (now - before[name]) / count for name, now in self.now().items()}


@asynccontextmanager
async def transport(name: str) -> AsyncGenerator[tuple[str, int | None]]:
    """Where relay and sessions meet, and the broker's process ID if there is one."""
    if name == NATS:
        async with broker() as (url, pid):
            yield url, pid
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/relay", None


async def one_round(url: URL, name: str, seconds: int) -> tuple[Times, Times, float]:
    """The time for a ping, the time for a notification, and the notifications a second."""
    given = {"url": url.render_as_string(), "table": TABLE, "sessions": SESSIONS}
    async with transport(name) as (through, broker_pid), relay(url, through) as leader:
        processes = Processes("session_process.py", PROCESSES, through=through, **given)
        async with processes, connected(url) as writer:
            await processes.reached(lambda: processes.total("ready") == ALL)
            await asyncio.sleep(2)
            parts = Parts(leader.pid, broker_pid, processes)
            before = parts.now()
            await asyncio.sleep(seconds)
            ping = parts.since(before, ALL * seconds)
            before, heard, begun = parts.now(), processes.total("heard"), time.perf_counter()
            while time.perf_counter() < begun + seconds:
                await writer.execute(f"UPDATE {TABLE} SET n = n + 1 WHERE id = 1")
            count = processes.total("heard") - heard
            taken = time.perf_counter() - begun
            notification = parts.since(before, count)
            if processes.total("gaps"):
                raise RuntimeError(f"{processes.total('gaps')} gaps: the sessions did not follow")
    return ping, notification, count / taken


async def broker_alone(messages: int) -> float:
    """The messages a second of one publisher, to as many subjects, heard by one subscriber."""
    heard, done = 0, asyncio.Event()

    async def receive(_: Any) -> None:
        nonlocal heard
        heard += 1
        if heard == messages:
            done.set()

    async with broker() as (url, _):
        publisher, subscriber = await nats.connect(url), await nats.connect(url)
        await subscriber.subscribe(
            "to.*", cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await subscriber.flush()
        begun = time.perf_counter()
        for number in range(messages):
            await publisher.publish(f"to.{number % ALL}", PAYLOAD)
        await asyncio.wait_for(done.wait(), 120)
        rate = messages / (time.perf_counter() - begun)
        await publisher.close()
        await subscriber.close()
    return rate


async def measure(url: URL, *, quick: bool) -> Subjects:
    """Measure each transport in each round, and the broker alone."""
    rounds, seconds = (1, 5) if quick else (3, 10)
    rounds_of: dict[str, list[tuple[Times, Times, float]]] = {NATS: [], SOCKET: []}
    alone: list[float] = []
    async with prepared(url, TABLE, 1) as engine:
        await install(engine, TABLE)
        for number in range(rounds):
            for name, found in rounds_of.items():
                progress(f"subjects: round {number + 1} of {rounds}, {name}")
                found.append(await one_round(url, name, seconds))
            alone.append(await broker_alone(20_000 * seconds))
    ways = {
        name: Taken(
            ping=_spreads([ping for ping, _, _ in found]),
            notification=_spreads([notification for _, notification, _ in found]),
            rate=extremes([rate for _, _, rate in found]),
        )
        for name, found in rounds_of.items()
    }
    return Subjects(rounds=rounds, seconds=seconds, ways=ways, broker=extremes(alone))


def _spreads(rounds: list[Times]) -> dict[str, Spread]:
    return {name: extremes([times[name] for times in rounds]) for name in rounds[0]}


def section(subjects: Subjects) -> Section:
    """The section of the page."""
    found = Section(
        f"Notifications to {ALL:,} sessions",
        f"{PROCESSES} processes with {SESSIONS} sessions each, all of which have registered one"
        f" row. All are idle for {subjects['seconds']} s, and ping once a second; then one writer"
        " changes the row as often as it can for as long. What the relay receives while it sends is"
        " one message for each session. The sessions read nothing."
        f" {subjects['rounds']} rounds: median"
        " [least..most]. Processor times are for one ping with its answer, or one notification of"
        " one session, in microseconds.",
        ["", "relay, µs", "broker, µs", "sessions, µs", "a second, on this machine"],
    )
    for name, taken in subjects["ways"].items():
        for what, times, rate in (
            ("a ping", taken["ping"], ""),
            ("a notification", taken["notification"], cell(taken["rate"], 0)),
        ):
            cells = [
                cell(times[part], 1) if part in times else ""
                for part in ("relay", "broker", "sessions")
            ]
            found.rows.append([f"{name}: {what}", *cells, rate])
    found.rows.append([BROKER, "", "", "", cell(subjects["broker"], 0)])
    limits = ", ".join(
        f"{1e6 / taken['notification']['relay']['median']:,.0f} notifications a second through"
        f" {'NATS' if is_nats(name.lower() + '://') else 'a unix socket'}"
        for name, taken in subjects["ways"].items()
    )
    processes = ", ".join(
        f"{100 * 10_000 * taken['ping']['relay']['median'] / 1e6:.0f} % of a core ({name})"
        for name, taken in subjects["ways"].items()
    )
    found.notes = (
        "All parts share the cores of this machine, which is the limit of the last column. The"
        " limit of a relay is one core, because it is one process: by its processor time that is"
        f" {limits}. The pings of 10,000 processes take a relay {processes}. The broker alone:"
        f" one publisher and one subscriber in Python, {ALL:,} subjects."
    )
    return found


SUBJECTS = Part("subjects", measure, section)
