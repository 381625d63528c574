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
from contextlib import AsyncExitStack
from statistics import median, quantiles

from sqlalchemy import URL

from rowbell.embedded import EmbeddedServer
from table import prepare
from ways import WAYS, Wait

FLOOR = "asyncpg + ORM (floor)"

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
        self._process = subprocess.Popen(
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
    wait: Wait, writer: Writer, table: str, key: int, count: int, seen: int
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
                print(f"wake: round {turn + 1} of {rounds}, {name}", end="\033[K\r", flush=True)
                taken = await latencies(wait, writer, table, 1, count, seen[name])
                seen[name] += count
                if turn >= 0:
                    found[name].append(taken)
    writer.close()
    return found


def report(found: dict[str, list[list[float]]]) -> None:
    """Print a table."""
    floors = [(median(r), quantiles(r, n=100)[98]) for r in found[FLOOR]]
    for name, rounds in found.items():
        p50 = [median(r) for r in rounds]
        p99 = [quantiles(r, n=100)[98] for r in rounds]
        ratio = [a / b[0] for a, b in zip(p50, floors, strict=True)]
        tail = [a / b[1] for a, b in zip(p99, floors, strict=True)]
        print(
            f"{name:28} p50 {median(p50):6.2f} ms  p99 {median(p99):6.2f}  "
            f"p50/floor {median(ratio):5.2f} [{min(ratio):.2f}..{max(ratio):.2f}]  "
            f"p99/floor {median(tail):5.2f} [{min(tail):.2f}..{max(tail):.2f}]\033[K"
        )


if __name__ == "__main__":
    with EmbeddedServer({"max_connections": 100}) as server:
        names = [n for n in WAYS if not sys.argv[2:] or n in sys.argv[2:] or n == FLOOR]
        report(asyncio.run(measure(server.url, names, int(sys.argv[1]), 60)))
