"""Churn: thousands of short waits a second, while one old transaction keeps all dead rows."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import URL

import rowbell
from section import Section, progress
from table import connect, memory, model, prepare
from wake import Writer
from ways import install

TABLE = "churn"
ROWS = 100_000
PROBE = 100_001
RATE, LASTING = 2_000, 0.25


@dataclass
class Sample:
    """What one stretch of the time showed."""

    minute: float
    begun: int
    table: float
    index: float
    live: int
    latency: float
    memory: float


async def churn(url: URL, *, quick: bool) -> Section:
    """Ten minutes of it."""
    seconds, every = (20, 5) if quick else (600, 10)
    engine, row = await prepare(url, TABLE, PROBE), model(TABLE)
    await install(engine, TABLE)
    old, observer, writer = await connect(url), await connect(url), Writer(url)
    await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await old.fetch("SELECT 1")
    begun, latencies, samples = 0, list[float](), list[Sample]()
    start = time.perf_counter()

    async with rowbell.RowWatcher(engine, mode="listen") as watcher, asyncio.TaskGroup() as tasks:

        async def short() -> None:
            with suppress(rowbell.WaitTimeoutError):
                await watcher.wait_for_change(row, random.randint(1, ROWS), timeout=LASTING)

        async def probe() -> None:
            seen = 0
            while time.perf_counter() - start < seconds:
                wait = asyncio.ensure_future(watcher.wait_for_change(row, PROBE, since={"n": seen}))
                await asyncio.sleep(0.05)
                writer.ask(TABLE, PROBE, random.uniform(0.1, 0.3))
                seen = (await wait).n
                latencies.append((time.monotonic_ns() - writer.committed()) / 1e6)

        async def observe() -> None:
            last = 0
            while time.perf_counter() - start < seconds:
                await asyncio.sleep(every)
                sizes = await observer.fetchrow(
                    "SELECT pg_relation_size('rowbell.registration'),"
                    " pg_indexes_size('rowbell.registration'),"
                    " (SELECT count(*) FROM rowbell.registration)"
                )
                assert sizes is not None
                table, index, live = sizes
                minute = (time.perf_counter() - start) / 60
                samples.append(
                    Sample(
                        minute,
                        (begun - last) // every,
                        table / 2**20,
                        index / 2**20,
                        live,
                        median(latencies or [0]),
                        memory() / 2**20,
                    )
                )
                last = begun
                latencies.clear()
                progress(f"churn: {samples[-1]}")

        tasks.create_task(probe())
        tasks.create_task(observe())
        while (now := time.perf_counter() - start) < seconds:
            for _ in range(int(now * RATE) - begun):
                tasks.create_task(short())
                begun += 1
            await asyncio.sleep(0.01)
    await old.close()
    await observer.close()
    writer.close()
    await engine.dispose()

    return report(samples, seconds)


def report(samples: list[Sample], seconds: int) -> Section:
    """The table and the curve."""
    section = Section(
        "churn",
        "Churn under an old transaction",
        f"{RATE:,} waits a second for random ones of {ROWS:,} rows, each for {LASTING} s, for"
        f" {seconds // 60 or seconds / 60:g} minutes, while a REPEATABLE READ transaction keeps"
        " VACUUM from removing any dead row. One more row is waited for and changed all the time:"
        " its latency, from commit to return.",
        [
            "minute",
            "waits begun a second",
            "registrations, MiB",
            "its index, MiB",
            "rows in it",
            "latency, ms",
            "memory, MiB",
        ],
    )
    for sample in samples[:: max(1, len(samples) // 10)]:
        section.rows.append(
            [
                f"{sample.minute:.1f}",
                f"{sample.begun:,}",
                f"{sample.table:.1f}",
                f"{sample.index:.1f}",
                f"{sample.live:,}",
                f"{sample.latency:.1f}",
                f"{sample.memory:.0f}",
            ]
        )

    def draw(axes: Any) -> None:
        minutes = [sample.minute for sample in samples]
        axes.plot(minutes, [s.table for s in samples], label="registrations, MiB")
        axes.plot(minutes, [s.index for s in samples], label="its index, MiB")
        axes.set_xlabel("minutes")
        axes.set_ylabel("MiB")
        axes.set_ylim(bottom=0)
        other = axes.twinx()
        other.plot(minutes, [s.latency for s in samples], color="tab:red", label="latency, ms")
        other.set_ylabel("ms")
        other.set_ylim(bottom=0)
        axes.legend(loc="upper left")
        other.legend(loc="upper right")

    section.draw = draw
    return section
