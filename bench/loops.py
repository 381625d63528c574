"""Wake latency on asyncio's event loop and on uvloop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TypedDict

from sqlalchemy import URL

from latency import by_round
from part import Part
from section import Section
from spread import Spread, cell, extremes, ratios
from ways import BY_SESSION, BY_WATCHER, FLOOR, NOTIFIED

SHOWN = {name: NOTIFIED[name] for name in (FLOOR, BY_SESSION, BY_WATCHER)}


class OnLoop(TypedDict):
    """The medians of the rounds on one loop, in milliseconds and as ratios to the floor."""

    p50: Spread
    ratio: Spread


class Loops(TypedDict):
    rounds: int
    changes: int
    asyncio: dict[str, OnLoop]
    uvloop: dict[str, OnLoop]


async def on_loop(url: URL, rounds: int, changes: int) -> dict[str, OnLoop]:
    """Measure the latencies on the running event loop."""
    found = await by_round(url, SHOWN, rounds, changes)
    p50 = {name: [median(taken) for taken in turns] for name, turns in found.items()}
    return {
        name: OnLoop(p50=extremes(taken), ratio=extremes(ratios(taken, p50[FLOOR])))
        for name, taken in p50.items()
    }


async def measure(url: URL, *, quick: bool) -> Loops:
    """Measure on both loops, one after the other."""
    import uvloop  # noqa: PLC0415

    rounds, changes = (2, 20) if quick else (3, 80)
    plain = await on_loop(url, rounds, changes)
    with ThreadPoolExecutor(1) as thread:
        fast = await asyncio.get_running_loop().run_in_executor(
            thread, lambda: uvloop.run(on_loop(url, rounds, changes))
        )
    return Loops(rounds=rounds, changes=changes, asyncio=plain, uvloop=fast)


def section(loops: Loops) -> Section:
    """The section of the page."""
    found = Section(
        "uvloop",
        f"Wake latency on asyncio's own event loop and on uvloop, {loops['rounds']} rounds of"
        f" {loops['changes']} changes each: median [least..most] in milliseconds.",
        ["way", "asyncio", "uvloop", "p50 / floor on asyncio", "p50 / floor on uvloop"],
    )
    for name, plain in loops["asyncio"].items():
        fast = loops["uvloop"][name]
        values = (plain["p50"], fast["p50"], plain["ratio"], fast["ratio"])
        found.rows.append([name, *map(cell, values)])
    return found


LOOPS = Part("loops", measure, section)
