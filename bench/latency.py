"""The time from a commit until the wait returns."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from sqlalchemy import URL

from table import prepared
from turns import turns
from ways import Wait, Way
from writer_process import WriterProcess

WARM_UP = 10


async def one_by_one(
    wait: Wait, writer: WriterProcess, table: str, *, count: int, seen: int
) -> list[float]:
    """The milliseconds of each change. Changes follow one after the other."""
    taken: list[float] = []
    for _ in range(count):
        waiting = asyncio.ensure_future(wait(1, seen))
        await asyncio.sleep(0.005)
        writer.ask(table, 1, random.uniform(0.005, 0.025))
        seen = await waiting
        taken.append(writer.since_commit(time.monotonic_ns()))
    return taken


async def by_round(
    url: URL, ways: Mapping[str, Way], rounds: int, changes: int
) -> dict[str, Sequence[Sequence[float]]]:
    """The milliseconds for each way and round. A first round is not counted."""
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    seen = dict.fromkeys(ways, 0)
    opened: dict[str, tuple[str, Wait]] = {}
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(WriterProcess(url))
        for number, (name, way) in enumerate(ways.items()):
            table = f"wake_{number}"
            engine = await stack.enter_async_context(prepared(url, table, 100))
            opened[name] = (table, await stack.enter_async_context(way(engine, table)))
        for number, name in turns("latency", ways, rounds + 1):
            table, wait = opened[name]
            count = WARM_UP if number == 0 else changes
            found[name].append(await one_by_one(wait, writer, table, count=count, seen=seen[name]))
            seen[name] += count
    return {name: taken[1:] for name, taken in found.items()}
