"""Wake latency: from the writer's COMMIT to the refreshed instance in the waiter's hand.

The writer is another process. Ways take turns at random within a round; ratios are formed
within a round.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from statistics import median, quantiles
from typing import Any

import uvloop
from sqlalchemy import URL

from section import Section, progress, spread
from table import prepare
from ways import BY_SESSION, BY_WATCHER, FLOOR, Wait, with_polling

WAYS = with_polling(0.05)

WRITER = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], prepare_threshold=0)
print(flush=True)
for line in sys.stdin:
    table, key, delay = line.split()
    time.sleep(float(delay))
    connection.execute(f"UPDATE {table} SET n = n + 1 WHERE id = %s", (int(key),))
    connection.commit()
    print(time.monotonic_ns(), flush=True)
"""


class Writer:
    """Another process, which commits a change after a while, and says when."""

    def __init__(self, url: URL) -> None:
        target = f"postgresql://{url.username}@/{url.database}?host={url.query['host']}"
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", WRITER, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def ask(self, table: str, key: int, delay: float) -> None:
        """Have that row changed."""
        assert self._process.stdin
        self._process.stdin.write(f"{table} {key} {delay}\n")
        self._process.stdin.flush()

    def committed(self) -> int:
        """When the change asked for last was committed."""
        return int(self._line())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


async def latencies(
    wait: Wait, writer: Writer, table: str, *, count: int, seen: int, key: int = 1
) -> list[float]:
    """Milliseconds from commit to return, of that many changes one after the other."""
    taken: list[float] = []
    for _ in range(count):
        waiting = asyncio.ensure_future(wait(key, seen))
        await asyncio.sleep(0.005)
        writer.ask(table, key, random.uniform(0.005, 0.025))
        seen = await waiting
        now = time.monotonic_ns()
        taken.append((now - writer.committed()) / 1e6)
    return taken


async def measure(
    url: URL, names: list[str], rounds: int, changes: int
) -> dict[str, list[list[float]]]:
    """For each way and round, the latencies."""
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    writer, ways = Writer(url), {}
    async with AsyncExitStack() as stack:
        for number, name in enumerate(names):
            table = f"wake_{number}"
            engine = await prepare(url, table, 100)
            stack.push_async_callback(engine.dispose)
            ways[name] = (table, await stack.enter_async_context(WAYS[name](engine, table)))
        seen = dict.fromkeys(names, 0)
        for turn in range(-1, rounds):
            for name in random.sample(names, len(names)):
                table, wait = ways[name]
                count = changes if turn >= 0 else 10
                progress(f"wake: round {turn + 1} of {rounds}, {name}")
                taken = await latencies(wait, writer, table, count=count, seen=seen[name])
                seen[name] += count
                if turn >= 0:
                    found[name].append(taken)
    writer.close()
    return found


async def wake(url: URL, *, quick: bool) -> Section:
    """One wait after the other."""
    rounds, changes = (2, 20) if quick else (7, 80)
    found = await measure(url, list(WAYS), rounds, changes)
    p50 = {name: [median(taken) for taken in turns] for name, turns in found.items()}
    p99 = {name: [quantiles(t, n=100)[98] for t in turns] for name, turns in found.items()}
    section = Section(
        "wake",
        "Wake latency",
        "From the moment that COMMIT has returned to the writer, another process, to the refreshed"
        f" instance in the waiter's hand; 5 to 25 ms between changes, {rounds} rounds of {changes}"
        " changes, ways in random turn. Ratios are formed within a round: median [least..most]."
        " The floor is what a careful program writes by hand: asyncpg's listener and"
        " `AsyncSession.get(populate_existing=True)`. Goals: 1.0 and 1.25.",
        ["way", "p50, ms", "p99, ms", "p50 / floor", "p99 / floor"],
    )
    for name in WAYS:
        ratios = [[a / b for a, b in zip(of[name], of[FLOOR], strict=True)] for of in (p50, p99)]
        cells = [spread(p50[name]), spread(p99[name]), *map(spread, ratios)]
        section.rows.append([name, *cells])

    def draw(axes: Any) -> None:
        shown = [name for name in WAYS if "toolsets" not in name]
        together = [[taken for turn in found[name] for taken in turn] for name in shown]
        axes.boxplot(together, orientation="horizontal", tick_labels=shown, whis=(1, 99), sym="")
        axes.set_xlabel("milliseconds from commit; box: middle half, whiskers: 1 % to 99 %")
        axes.set_xlim(left=0)

    section.draw = draw
    return section


async def loops(url: URL, *, quick: bool) -> Section:
    """The same on uvloop."""
    rounds, changes = (2, 20) if quick else (3, 80)
    names = [FLOOR, BY_SESSION, BY_WATCHER]
    section = Section(
        "loops",
        "uvloop",
        f"Wake latency on asyncio's own event loop and on uvloop, {rounds} rounds of {changes}"
        " changes each: median [least..most] in milliseconds.",
        ["way", "asyncio", "uvloop", "p50 / floor on asyncio", "p50 / floor on uvloop"],
    )
    plain = await measure(url, names, rounds, changes)
    with ThreadPoolExecutor(1) as thread:
        fast = await asyncio.get_running_loop().run_in_executor(
            thread, lambda: uvloop.run(measure(url, names, rounds, changes))
        )
    for name in names:
        p50 = [[median(taken) for taken in found[name]] for found in (plain, fast)]
        floors = [[median(taken) for taken in found[FLOOR]] for found in (plain, fast)]
        ratios = [[a / b for a, b in zip(*of, strict=True)] for of in zip(p50, floors, strict=True)]
        section.rows.append([name, *map(spread, p50), *map(spread, ratios)])
    return section
