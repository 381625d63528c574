"""The cost of a trigger for writers: pgbench keeps running while its table's trigger is changed.

So the connections and their caches stay. The transactions of one second are compared with those of
another second, a few seconds apart. A new run of pgbench for each trigger would be less precise: on
a small machine, such runs differ by a third among themselves.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from sqlalchemy import URL

import plot
from part import Part
from pgbench import Pgbench
from section import Section
from spread import Spread, cell, middle_half, ratios, short
from table import connected, prepared
from triggers import (
    DECLARED,
    NONE,
    NOTHING,
    PEERS,
    ROW_FORM,
    ROWBELL,
    TABLE,
    dropped,
    installed,
    registered,
)
from turns import turns

ROWS = 100_000
CLIENTS = (1, 16, 64)
UPDATE = f"\\set id random(1, {ROWS})\nUPDATE {TABLE} SET n = n + 1 WHERE id = :id;\n"
SETTLE, SAMPLE = 0.5, 1.0

NO_ROWS = "no rows watched"
ELSEWHERE = "10,000 rows of another table watched"
SOME = "10,000 other rows watched"
MANY = "100,000 other rows watched"
THESE = "these rows watched, for another column"
GROUPS: dict[str, tuple[tuple[int, int, str | None], Collection[str]]] = {
    NO_ROWS: ((ROWS + 1, 0, None), (NOTHING, ROWBELL, DECLARED)),
    ELSEWHERE: ((1, 10_000, None), (NOTHING, ROWBELL)),
    SOME: ((ROWS + 1, 10_000, None), (ROWBELL, ROW_FORM, DECLARED, *PEERS)),
    MANY: ((ROWS + 1, 100_000, None), (ROWBELL, DECLARED)),
    THESE: ((1, ROWS, "{status}"), (ROWBELL, DECLARED)),
}
"""The registered rows, and the triggers that are compared with them."""

BARS = {
    "rowbell, no rows watched": (NO_ROWS, ROWBELL),
    "rowbell, 10,000 watched": (SOME, ROWBELL),
    "rowbell, 100,000 watched": (MANY, ROWBELL),
    "rowbell, 10,000 watched,\ncolumns declared": (SOME, DECLARED),
    **{name: (SOME, name) for name in PEERS},
}


class Case(TypedDict):
    """The ratio of throughputs with and without the trigger, by clients (as text for JSON)."""

    watched: str
    trigger: str
    ratio: dict[str, Spread]


class Writers(TypedDict):
    rounds: int
    plain: dict[str, float]  # transactions per second without a trigger, by clients
    cases: list[Case]


async def throughput(url: URL, trigger: Sequence[str], writers: Pgbench, observer: Any) -> float:
    """The transactions per second with that trigger. Each uses one transaction ID."""
    query = "SELECT pg_current_xact_id()::text::bigint"
    await dropped(url)
    for statement in trigger:
        await observer.execute(statement)
    await asyncio.sleep(SETTLE)
    before, begun = await observer.fetchval(query), time.perf_counter()
    await asyncio.sleep(SAMPLE)
    after, ended = await observer.fetchval(query), time.perf_counter()
    writers.check()
    return float(after - before) / (ended - begun)


async def measure(url: URL, *, quick: bool) -> Writers:
    """Measure each group of triggers with each number of clients."""
    rounds = 2 if quick else 4
    found: dict[tuple[str, str], dict[str, Spread]] = {}
    plain: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    async with prepared(url, TABLE, 2 * ROWS):
        pass
    triggers = await installed(url)
    with tempfile.TemporaryDirectory() as work:
        script = Path(work) / "update.sql"
        script.write_text(UPDATE)
        async with connected(url) as observer:
            for clients in CLIENTS:
                for group, (rows, names) in GROUPS.items():
                    await registered(url, *rows, elsewhere=group == ELSEWHERE)
                    taken: dict[str, list[float]] = {name: [] for name in (NONE, *names)}
                    with Pgbench(url, clients, script) as writers:
                        await asyncio.sleep(2)
                        part = f"writers: {clients} clients, {group}"
                        for _, name in turns(part, taken, rounds):
                            rate = await throughput(url, triggers[name], writers, observer)
                            taken[name].append(rate)
                    plain[clients] += taken[NONE]
                    for name in names:
                        compared = middle_half(ratios(taken[name], taken[NONE]))
                        found.setdefault((group, name), {})[str(clients)] = compared
                    await dropped(url)
                    await observer.execute(f"VACUUM {TABLE}")
    return Writers(
        rounds=rounds,
        plain={str(clients): short(median(rates)) for clients, rates in plain.items()},
        cases=[Case(watched=g, trigger=t, ratio=ratio) for (g, t), ratio in found.items()],
    )


def named(clients: str) -> str:
    """The number of clients as text."""
    return "1 client" if clients == "1" else f"{clients} clients"


def section(writers: Writers) -> Section:
    """The section of the page."""
    plain = ", ".join(f"{rate:,.0f}/s with {named(n)}" for n, rate in writers["plain"].items())
    found = Section(
        "What writers pay",
        f"pgbench, single-row UPDATEs of {ROWS:,} rows, prepared, while the table's trigger is"
        f" changed in random order ({SETTLE} s to settle, {SAMPLE:g} s counted by transaction IDs,"
        f" {writers['rounds']} rounds). Throughput as a ratio to that without a trigger in the same"
        f" round: median [the middle half]. Without a trigger: {plain}.",
        ["watched", "trigger", *map(named, writers["plain"])],
        plot="writers.svg",
    )
    for case in writers["cases"]:
        cells = [cell(case["ratio"][clients]) for clients in writers["plain"]]
        found.rows.append([case["watched"], case["trigger"], *cells])
    return found


def draw(figure: Any, writers: Writers) -> None:
    """Draw the ratios of some triggers for each number of clients."""
    cases = {(case["watched"], case["trigger"]): case["ratio"] for case in writers["cases"]}
    panels = figure.subplots(1, len(writers["plain"]), sharey=True)
    for axes, clients in zip(panels, writers["plain"], strict=True):
        plot.bare(axes, "x")
        for y, (name, key) in enumerate(BARS.items()):
            value = cases[key][clients]["median"]
            axes.barh(y, value, 0.62, color=plot.color(name))
            plot.beside(axes, max(value, 1), y, f"{value:.2f}", 0, **plot.label(name))
        axes.set_xlim(0, 1.4)
        axes.set_xticks([0, 0.5, 1])
        axes.set_title(named(clients), color=plot.TEXT, fontsize=11, loc="left")
        axes.axvline(1, color=plot.TEXT, linewidth=1)
    plot.rows(panels[0], BARS)
    explanation = (
        "Throughput of UPDATEs of other rows than those watched; without a trigger it is 1."
        " More is better."
    )
    plot.title(figure, "What writers pay", explanation)
    figure.subplots_adjust(left=0.24, right=0.995, top=0.8, bottom=0.08, wspace=0.05)


WRITERS = Part("writers", measure, section, draw)
