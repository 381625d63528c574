"""The cost of a trigger for one UPDATE of many rows."""

from __future__ import annotations

import time
from typing import TypedDict

from sqlalchemy import URL

from goal import Goal
from part import Part
from section import Section
from spread import Spread, cell, extremes, ratios
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
OURS = (ROWBELL, DECLARED)
RATIO_GOAL = Goal(1.15)
CASES = [
    (NONE, 0),
    (NOTHING, 0),
    (ROWBELL, 0),
    (ROWBELL, 10_000),
    (ROWBELL, 100_000),
    (ROW_FORM, 10_000),
    (DECLARED, 10_000),
    *((peer, 0) for peer in PEERS),
]
"""The trigger, and the number of other rows that are registered."""


class Case(TypedDict):
    """The seconds of one UPDATE, and their ratio to an UPDATE without a trigger."""

    trigger: str
    watched: int
    seconds: Spread
    ratio: Spread


class Bulk(TypedDict):
    rounds: int
    cases: list[Case]


async def measure(url: URL, *, quick: bool) -> Bulk:
    """Measure the triggers in random order."""
    rounds = 2 if quick else 5
    async with prepared(url, TABLE, 2 * ROWS):
        pass
    triggers = await installed(url)
    taken: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    async with connected(url) as observer:
        for _, (name, watched) in turns("bulk", CASES, rounds):
            await registered(url, ROWS + 1, watched)
            await dropped(url)
            for statement in [*triggers[name], f"VACUUM {TABLE}", "CHECKPOINT"]:
                await observer.execute(statement)
            async with connected(url) as writer:
                begun = time.perf_counter()
                await writer.execute(f"UPDATE {TABLE} SET n = n + 1 WHERE id <= {ROWS}")
                taken[name, watched].append(time.perf_counter() - begun)
    await dropped(url)
    return Bulk(
        rounds=rounds,
        cases=[
            Case(
                trigger=name,
                watched=watched,
                seconds=extremes(seconds),
                ratio=extremes(ratios(seconds, taken[NONE, 0])),
            )
            for (name, watched), seconds in taken.items()
        ],
    )


def section(bulk: Bulk) -> Section:
    """The section of the page."""
    found = Section(
        f"One UPDATE of {ROWS:,} rows",
        "The rows are not watched. Each UPDATE has a new connection; triggers in random order,"
        f" {bulk['rounds']} rounds; seconds, and the ratio to no trigger in the same round: median"
        " [least..most].",
        ["trigger", "other rows watched", "seconds", "ratio", "goal"],
    )
    for case in bulk["cases"]:
        cells = [f"{case['watched']:,}", cell(case["seconds"]), cell(case["ratio"])]
        goal = RATIO_GOAL.verdict(case["ratio"]["median"]) if case["trigger"] in OURS else ""
        found.rows.append([case["trigger"], *cells, goal])
    return found


BULK = Part("bulk", measure, section)
