"""What a relay adds to a wake: the same change, heard directly and through another process."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TypedDict

from sqlalchemy import URL

from goal import Goal
from latency import by_round
from part import Part
from relayed import RELAYED
from section import Section
from spread import Spread, cell, extremes, ratios
from ways import BY_WATCHER, FLOOR, NOTIFIED

WAYS = {FLOOR: NOTIFIED[FLOOR], BY_WATCHER: NOTIFIED[BY_WATCHER], **RELAYED}
GOAL = Goal(1.5)


class OnWay(TypedDict):
    """The medians of the rounds, in milliseconds and as ratios to a watcher that listens itself."""

    p50: Spread
    p99: Spread
    ratio: Spread


class Hop(TypedDict):
    rounds: int
    changes: int
    ways: dict[str, OnWay]


async def measure(url: URL, *, quick: bool) -> Hop:
    """Measure one wait after the other, with each way."""
    rounds, changes = (2, 20) if quick else (7, 80)
    found = await by_round(url, WAYS, rounds, changes)
    p50 = {name: [median(taken) for taken in turns] for name, turns in found.items()}
    return Hop(
        rounds=rounds,
        changes=changes,
        ways={
            name: OnWay(
                p50=extremes(p50[name]),
                p99=extremes([quantiles(taken, n=100)[98] for taken in turns]),
                ratio=extremes(ratios(p50[name], p50[BY_WATCHER])),
            )
            for name, turns in found.items()
        },
    )


def section(hop: Hop) -> Section:
    """The section of the page."""
    found = Section(
        "Through a relay",
        "The time from COMMIT to the refreshed instance, as above, for a watcher that listens"
        " itself and for one that listens through a relay; relay and broker are processes of their"
        f" own on the same host. {hop['rounds']} rounds of {hop['changes']} changes, the ways in"
        " random order: median [least..most]. The bare hop is the floor with one more process: a"
        " program that forwards notifications to NATS, and a subscriber.",
        ["way", "p50, ms", "p99, ms", "p50 / direct", "goal"],
    )
    for name, way in hop["ways"].items():
        goal = GOAL.verdict(way["ratio"]["median"]) if "relay" in name else ""
        found.rows.append([name, *map(cell, (way["p50"], way["p99"], way["ratio"])), goal])
    return found


HOP = Part("hop", measure, section)
