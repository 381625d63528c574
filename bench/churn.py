"""Thousands of short waits per second, while an old transaction keeps all dead rows."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypedDict

from sqlalchemy import URL

import plot
import rowbell
from counters import memory
from part import Part
from section import Section
from spread import short
from table import Row, connected, model, prepared
from turns import progress
from ways import install
from writer_process import WriterProcess

TABLE = "churn"
ROWS = 100_000
PROBE = 100_001
RATE, LASTING = 2_000, 0.25


class Sample(TypedDict):
    """The values of one period: sizes in MiB, the latency in ms."""

    minute: float
    begun: int
    table: float
    index: float
    live: int
    latency: float
    memory: float


class Point(TypedDict):
    """The values of a sample for the plot."""

    minute: float
    table: float
    index: float
    latency: float


class Churn(TypedDict):
    seconds: int
    rows: list[Sample]  # some of the samples, for the table
    curve: list[Point]  # all of them


@dataclass
class Load:
    """The waits, and the measurements during the waits."""

    watcher: rowbell.RowWatcher
    row: type[Row]
    seconds: int
    begun: int = 0
    start: float = field(default_factory=time.perf_counter)
    latencies: list[float] = field(default_factory=list[float])
    samples: list[Sample] = field(default_factory=list[Sample])

    def elapsed(self) -> float:
        """The seconds since the start."""
        return time.perf_counter() - self.start

    async def run(self) -> None:
        """Begin short waits at the given rate."""
        async with asyncio.TaskGroup() as tasks:
            while (now := self.elapsed()) < self.seconds:
                for _ in range(int(now * RATE) - self.begun):
                    tasks.create_task(self._short())
                    self.begun += 1
                await asyncio.sleep(0.01)

    async def _short(self) -> None:
        with suppress(rowbell.WaitTimeoutError):
            await self.watcher.wait_for_change(self.row, random.randint(1, ROWS), timeout=LASTING)

    async def probe(self, writer: WriterProcess) -> None:
        """Wait for one more row and change it, repeatedly."""
        seen = 0
        while self.elapsed() < self.seconds:
            wait = asyncio.ensure_future(
                self.watcher.wait_for_change(self.row, PROBE, since={"n": seen})
            )
            await asyncio.sleep(0.05)
            writer.ask(TABLE, PROBE, random.uniform(0.1, 0.3))
            seen = (await wait).n
            self.latencies.append(writer.since_commit(time.monotonic_ns()))

    async def observe(self, observer: Any, every: int) -> None:
        """Take a sample at regular intervals, given in seconds."""
        last = 0
        while self.elapsed() < self.seconds:
            await asyncio.sleep(every)
            sizes = await observer.fetchrow(
                "SELECT pg_relation_size('rowbell.registration'),"
                " pg_indexes_size('rowbell.registration'),"
                " (SELECT count(*) FROM rowbell.registration)"
            )
            table, index, live = sizes
            sample = Sample(
                minute=short(self.elapsed() / 60),
                begun=(self.begun - last) // every,
                table=short(table / 2**20),
                index=short(index / 2**20),
                live=live,
                latency=short(median(self.latencies or [0])),
                memory=short(memory() / 2**20),
            )
            self.samples.append(sample)
            last = self.begun
            self.latencies.clear()
            progress(f"churn: {sample}")


async def measure(url: URL, *, quick: bool) -> Churn:
    """Measure ten minutes of such waits."""
    seconds, every = (20, 5) if quick else (600, 10)
    async with (
        prepared(url, TABLE, PROBE) as engine,
        connected(url) as old,
        connected(url) as observer,
    ):
        await install(engine, TABLE)
        await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await old.fetch("SELECT 1")
        with WriterProcess(url) as writer:
            async with rowbell.RowWatcher(engine, mode="listen") as watcher:
                load = Load(watcher, model(TABLE), seconds)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(load.probe(writer))
                    tasks.create_task(load.observe(observer, every))
                    tasks.create_task(load.run())
    samples = load.samples
    curve = [
        Point(minute=s["minute"], table=s["table"], index=s["index"], latency=s["latency"])
        for s in samples
    ]
    return Churn(seconds=seconds, rows=samples[:: max(1, len(samples) // 10)], curve=curve)


def section(churn: Churn) -> Section:
    """The section of the page."""
    minutes = churn["seconds"] / 60
    found = Section(
        "Churn under an old transaction",
        f"{RATE:,} waits a second for random ones of {ROWS:,} rows, each for {LASTING} s, for"
        f" {minutes:.2g} minutes, while a REPEATABLE READ transaction keeps VACUUM from removing"
        " any dead row. One more row is waited for and changed all the time; the latency is the"
        " time from its commit until the wait returns.",
        [
            "minute",
            "waits begun a second",
            "registrations, MiB",
            "their indexes, MiB",
            "registrations",
            "latency, ms",
            "memory, MiB",
        ],
        plot="churn.svg",
    )
    for sample in churn["rows"]:
        found.rows.append(
            [
                f"{sample['minute']:.1f}",
                f"{sample['begun']:,}",
                f"{sample['table']:.1f}",
                f"{sample['index']:.1f}",
                f"{sample['live']:,}",
                f"{sample['latency']:.1f}",
                f"{sample['memory']:.0f}",
            ]
        )
    return found


def draw(figure: Any, churn: Churn) -> None:
    """Draw the sizes above, and the latency below."""
    curve = churn["curve"]
    minutes = [point["minute"] for point in curve]
    sizes, latency = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (sizes, latency):
        plot.bare(axes, "y")
    sizes.plot(
        minutes,
        [point["index"] for point in curve],
        color=plot.OTHERS,
        linewidth=2,
        linestyle=(0, (4, 1.5)),
    )
    sizes.plot(minutes, [point["table"] for point in curve], color=plot.ROWBELL, linewidth=2)
    latency.plot(minutes, [point["latency"] for point in curve], color=plot.ROWBELL, linewidth=2)
    ours, other = plot.label("rowbell"), plot.label("index")
    plot.beside(sizes, curve[-1]["minute"], curve[-1]["table"], "registrations, MiB", 7, **ours)
    plot.beside(sizes, curve[-1]["minute"], curve[-1]["index"], "their indexes, MiB", -7, **other)
    plot.beside(latency, curve[-1]["minute"], curve[-1]["latency"], "latency, ms", 0, **ours)
    for axes in (sizes, latency):
        axes.set_ylim(bottom=0)
        axes.yaxis.get_major_locator().set_params(integer=True)
    latency.set_xlim(0, minutes[-1])
    latency.set_xlabel("minutes")
    explanation = f"{RATE:,} waits a second for {LASTING} s each; VACUUM removes no dead row."
    plot.title(figure, "Churn under an old transaction", explanation)
    figure.subplots_adjust(left=0.04, right=0.83, top=0.84, bottom=0.12, hspace=0.15)


CHURN = Part("churn", measure, section, draw)
