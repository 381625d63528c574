"""Wake latency: from the writer's COMMIT until the wait returns the refreshed instance."""

from __future__ import annotations

from itertools import chain
from statistics import median, quantiles
from typing import Any, TypedDict

from sqlalchemy import URL

import plot
from goal import Goal
from latency import by_round
from part import Part
from section import Section
from spread import Spread, cell, extremes, ratios, short
from ways import FLOOR, NOTIFIED, with_polling

INTERVAL = 0.05
PERCENTILES = (1, 25, 50, 75, 99)
P50_GOAL, P99_GOAL = Goal(1.0), Goal(1.25)


class Latency(TypedDict):
    """The latency of one way in milliseconds, and its ratio to the floor of the same round."""

    p50: Spread
    p99: Spread
    p50_ratio: Spread
    p99_ratio: Spread
    percentiles: list[float] | None  # PERCENTILES of all changes together


class Wake(TypedDict):
    rounds: int
    changes: int
    ways: dict[str, Latency]


async def measure(url: URL, *, quick: bool) -> Wake:
    """Measure one wait after the other, with each way."""
    rounds, changes = (2, 20) if quick else (7, 80)
    found = await by_round(url, with_polling(INTERVAL), rounds, changes)
    p50 = {name: [median(taken) for taken in turns] for name, turns in found.items()}
    p99 = {name: [quantiles(t, n=100)[98] for t in turns] for name, turns in found.items()}
    ways: dict[str, Latency] = {}
    for name, taken in found.items():
        together = quantiles(chain.from_iterable(taken), n=100)
        ways[name] = Latency(
            p50=extremes(p50[name]),
            p99=extremes(p99[name]),
            p50_ratio=extremes(ratios(p50[name], p50[FLOOR])),
            p99_ratio=extremes(ratios(p99[name], p99[FLOOR])),
            percentiles=[short(together[percent - 1]) for percent in PERCENTILES],
        )
    return Wake(rounds=rounds, changes=changes, ways=ways)


def section(wake: Wake) -> Section:
    """The section of the page."""
    found = Section(
        "Wake latency",
        "The time from the moment at which COMMIT has returned to the writer, another process,"
        " until the waiter has the refreshed instance. Changes follow each other after 5 to 25 ms;"
        f" {wake['rounds']} rounds of {wake['changes']} changes, the ways in random order. Ratios"
        " are formed within a round. Values are median [least..most] of the rounds. The floor is"
        " what a careful program writes by hand: asyncpg's listener and"
        " `AsyncSession.get(populate_existing=True)`. The goals are ratios to the floor."
        " The plot shows all changes of all rounds together.",
        ["way", "p50, ms", "p99, ms", "p50 / floor", "p99 / floor", "goal for p50", "goal for p99"],
        plot="wake.svg",
    )
    for name, way in wake["ways"].items():
        values = (way["p50"], way["p99"], way["p50_ratio"], way["p99_ratio"])
        goals = ["", ""]
        if name.startswith("rowbell"):
            goals = [
                P50_GOAL.verdict(way["p50_ratio"]["median"]),
                P99_GOAL.verdict(way["p99_ratio"]["median"]),
            ]
        found.rows.append([name, *map(cell, values), *goals])
    return found


def draw(figure: Any, wake: Wake) -> None:
    """Draw the percentiles of all changes for each way with notifications."""
    shown = {
        name: way["percentiles"]
        for name, way in wake["ways"].items()
        if name in NOTIFIED and way["percentiles"]
    }
    axes = figure.subplots()
    plot.bare(axes, "x")
    plot.rows(axes, shown)
    for y, (name, percentiles) in enumerate(shown.items()):
        least, low, middle, high, most = percentiles
        color = plot.color(name)
        axes.plot([least, most], [y, y], color=color, linewidth=1.5)
        axes.plot([low, high], [y, y], color=color, linewidth=7, solid_capstyle="butt")
        axes.plot(middle, y, "o", color=color, markersize=11)
        axes.annotate(
            f"{middle:.2f} ms",
            (middle, y),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            **plot.label(name),
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds from COMMIT to the refreshed instance, all changes together")
    polled = [
        f" Not shown: {name} interval: {way['p50']['median']:.0f} ms."
        for name, way in wake["ways"].items()
        if name not in shown
    ]
    explanation = "Dot: median. Bar: middle half. Line: 1 % to 99 %. Less is better."
    plot.title(figure, "Wake latency", explanation + "".join(polled))
    figure.subplots_adjust(left=0.27, right=0.98, top=0.86, bottom=0.12)


WAKE = Part("wake", measure, section, draw)
