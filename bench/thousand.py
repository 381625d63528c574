"""A thousand waits at the same time, with each way to wait."""

from __future__ import annotations

import asyncio
import time
from typing import TypedDict

from sqlalchemy import URL

from counters import connections
from part import Part
from section import Section
from spread import Spread, cell, extremes
from table import connected, prepared
from turns import progress
from ways import with_polling

COUNT = 1_000
INTERVAL = 0.5
START = 3
"""The seconds after which all waits count as begun."""

GIVE_UP = 15
"""The seconds after which a wait that has not returned counts as missed."""


class Taken(TypedDict):
    """The results of one way. ``last`` is missing if not all waits returned."""

    connections: Spread
    cpu: Spread
    returned: int
    last: Spread | None


class Thousand(TypedDict):
    rounds: int
    idle: int
    ways: dict[str, Taken]


async def measure(url: URL, *, quick: bool) -> Thousand:
    """Measure one way after the other."""
    idle, rounds = 2 if quick else 5, 1 if quick else 3
    found: dict[str, Taken] = {}
    for number, (name, way) in enumerate(with_polling(INTERVAL).items()):
        seconds, cpus, connected_by = list[float](), list[float](), list[float]()
        returned = 0
        for turn in range(rounds):
            progress(f"thousand: {name}, round {turn + 1} of {rounds}")
            table = f"thousand_{number}_{turn}"
            async with (
                connected(url) as observer,
                prepared(url, table, COUNT) as engine,
                way(engine, table) as wait,
            ):
                waits = [asyncio.ensure_future(wait(key, 0)) for key in range(1, COUNT + 1)]
                await asyncio.sleep(START)
                cpu = time.process_time()
                await asyncio.sleep(idle)
                cpus.append(100 * (time.process_time() - cpu) / idle)
                connected_by.append(await connections(observer))
                await observer.execute(f"UPDATE {table} SET n = n + 1")
                begun = time.perf_counter()
                done, missed = await asyncio.wait(waits, timeout=GIVE_UP)
                seconds.append(time.perf_counter() - begun)
                returned += len(done)
                for task in missed:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        found[name] = Taken(
            connections=extremes(connected_by),
            cpu=extremes(cpus),
            returned=returned,
            last=extremes(seconds) if returned == COUNT * rounds else None,
        )
    return Thousand(rounds=rounds, idle=idle, ways=found)


def section(thousand: Thousand) -> Section:
    """The section of the page."""
    found = Section(
        f"{COUNT:,} waits, compared with the peers",
        f"Each way has {COUNT:,} waits for as many rows, and is idle for {thousand['idle']} s. One"
        f" UPDATE then changes all rows. The idle time begins {START} s after the waits; rounds:"
        f" {thousand['rounds']}, median [least..most]. fastapi-toolsets polls at its default"
        f" interval of {INTERVAL} s.",
        ["way", "connections, idle", "CPU, idle", "returned", "the last after"],
    )
    for name, taken in thousand["ways"].items():
        found.rows.append(
            [
                name,
                cell(taken["connections"], 0),
                cell(taken["cpu"], 1, " %"),
                f"{taken['returned']:,} of {COUNT * thousand['rounds']:,}",
                cell(taken["last"], 2, " s") if taken["last"] else f"> {GIVE_UP} s",
            ]
        )
    return found


THOUSAND = Part("thousand", measure, section)
