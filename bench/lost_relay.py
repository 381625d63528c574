"""A fleet whose relay is killed, and which gets a new one later: a curve."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, TypedDict

from sqlalchemy import URL

import plot
from goal import Goal, row
from part import Part
from processes import Processes
from relayed import broker, relay
from section import Section
from spread import Spread, extremes, short
from table import prepared
from turns import progress
from ways import install

TABLE = "lost"
PROCESSES, WATCHERS, WAITS = 10, 20, 5
SESSIONS = PROCESSES * WATCHERS
ALL = SESSIONS * WAITS
INTERVAL = 0.5
READS = 100
"""The relay's limit for the reads of a fleet that polls, a second."""

KILLED, REPLACED, END = 5.0, 20.0, 32.0
STEP = 0.25

MEASURED: dict[str, tuple[str, int, str, Goal | None]] = {
    "polled": ("relay killed: all waits are polled after", 1, " s", Goal(3, " s")),
    "armed": ("a new relay leads: all waits are armed after", 1, " s", Goal(5, " s")),
    "reads": (f"reads a second while polled; the limit was {READS}", 0, "", Goal(READS)),
}


class Point(TypedDict):
    """The fleet at one moment, in seconds since the begin."""

    at: float
    armed: int
    polled: int
    reads: float  # a second


class Lost(TypedDict):
    rounds: int
    measured: dict[str, Spread]
    curve: list[Point]  # of the first round


class Curve:
    """Takes a point regularly."""

    def __init__(self, processes: Processes, begun: float) -> None:
        self.points: list[Point] = []
        self._processes = processes
        self._begun = begun

    async def take(self) -> None:
        """Take points until cancelled."""
        before, then = self._processes.total("queries"), time.perf_counter()
        while True:
            await asyncio.sleep(STEP)
            queries, now = self._processes.total("queries"), time.perf_counter()
            self.points.append(
                Point(
                    at=short(now - self._begun),
                    armed=int(self._processes.total("armed")),
                    polled=int(self._processes.total("polled")),
                    reads=short((queries - before) / (now - then)),
                )
            )
            before, then = queries, now


async def one_round(url: URL) -> tuple[dict[str, float], list[Point]]:
    """Kill the relay, and start another one later."""
    found: dict[str, float] = {}
    limit = ("--reads-per-second", str(READS))
    given: dict[str, Any] = {"url": url.render_as_string(), "table": TABLE}
    given |= {"watchers": WATCHERS, "waits": WAITS, "interval": INTERVAL}
    async with broker() as (nats, _), AsyncExitStack() as stack:
        first = await stack.enter_async_context(relay(url, nats, *limit))
        processes = Processes("watching_process.py", PROCESSES, through=nats, **given)
        await stack.enter_async_context(processes)
        await processes.reached(lambda: processes.total("armed") == ALL)
        await asyncio.sleep(3)  # the limit comes with the answers to pings
        begun = time.perf_counter()
        curve = Curve(processes, begun)
        taking = asyncio.create_task(curve.take())
        await asyncio.sleep(KILLED)
        first.kill()
        killed = time.perf_counter()
        await processes.reached(lambda: processes.total("polled") == ALL)
        found["polled"] = time.perf_counter() - killed
        await asyncio.sleep(max(0.0, begun + REPLACED - time.perf_counter()))
        await stack.enter_async_context(relay(url, nats, *limit))
        leads = time.perf_counter()
        await processes.reached(lambda: processes.total("armed") == ALL)
        found["armed"] = time.perf_counter() - leads
        await asyncio.sleep(max(0.0, begun + END - time.perf_counter()))
        taking.cancel()
    polled = [p["reads"] for p in curve.points if KILLED + 3 < p["at"] < REPLACED]
    found["reads"] = sum(polled) / len(polled)
    return found, curve.points


async def measure(url: URL, *, quick: bool) -> Lost:
    """Measure several rounds."""
    rounds = 1 if quick else 3
    values: dict[str, list[float]] = {}
    curve: list[Point] = []
    async with prepared(url, TABLE, ALL) as engine:
        await install(engine, TABLE)
        for number in range(rounds):
            progress(f"lost relay: round {number + 1} of {rounds}")
            found, points = await one_round(url)
            curve = curve or points
            for name, value in found.items():
                values.setdefault(name, []).append(value)
    measured = {name: extremes(found) for name, found in values.items()}
    return Lost(rounds=rounds, measured=measured, curve=curve)


def section(lost: Lost) -> Section:
    """The section of the page."""
    return Section(
        "A fleet that loses its relay",
        f"{PROCESSES} processes with {WATCHERS} watchers each, with {WAITS} waits each, at an"
        f" interval of {INTERVAL} s, through NATS. Their only relay is killed, and a new one is"
        f" started {REPLACED - KILLED:g} s later. {lost['rounds']} rounds: median [least..most]."
        f" {SESSIONS} watchers that poll every {INTERVAL} s are {SESSIONS / INTERVAL:,.0f} reads a"
        f" second; the relay had told them to cause {READS} together.",
        ["", "measured", "goal"],
        [
            row(label, lost["measured"][name], digits, unit, goal)
            for name, (label, digits, unit, goal) in MEASURED.items()
        ],
        plot="lost_relay.svg",
    )


def draw(figure: Any, lost: Lost) -> None:
    """Draw the waits above, and the reads below."""
    at = [point["at"] for point in lost["curve"]]
    waits, reads = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (waits, reads):
        plot.bare(axes, "y")
        for moment in (KILLED, REPLACED):
            axes.axvline(moment, color=plot.TEXT, linewidth=1, linestyle=(0, (2, 2)))
    armed = [point["armed"] for point in lost["curve"]]
    waits.plot(at, armed, color=plot.ROWBELL, linewidth=2)
    reads.plot(at, [point["reads"] for point in lost["curve"]], color=plot.OTHERS, linewidth=2)
    waits.set_ylim(0, 1.15 * ALL)
    for moment, what in ((KILLED, "killed"), (REPLACED, "a new relay is started")):
        waits.annotate(what, (moment, 1.08 * ALL), (4, 0), textcoords="offset points", va="center")
    plot.beside(waits, at[-1], armed[-1], "waits armed", 0, **plot.label("rowbell"))
    plot.beside(reads, at[-1], lost["curve"][-1]["reads"], "reads a second", 8, **plot.label("x"))
    reads.set_ylim(bottom=0)
    reads.set_xlim(0, at[-1])
    reads.set_xlabel("seconds")
    explanation = f"{SESSIONS} watchers with {WAITS} waits each; the others are polled."
    plot.title(figure, "A fleet that loses its relay", explanation)
    figure.subplots_adjust(left=0.06, right=0.86, top=0.84, bottom=0.12, hspace=0.15)


LOST_RELAY = Part("lost_relay", measure, section, draw)
