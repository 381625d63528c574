"""A worker waits for orders while another process changes them, with notifications and by polling.

    make demo

starts PostgreSQL, migrates the database and shows each change with the time from the writer's
commit until the worker has the refreshed row.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import quantiles

from alembic import command
from alembic.config import Config
from models import STATES, Order
from rich.console import Console
from rich.table import Table
from sqlalchemy import URL, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import RowWatcher, create_database, drop_database, wait_for_row_change
from rowbell.embedded import server_url

ROOT = Path(__file__).parent.parent.parent
ORDERS = 8
INTERVAL = 0.5
IDLE = 2.1  # seconds without a change
console = Console()


class Side:
    """One of the two ways to wait, and the changes that it saw."""

    def __init__(self, name: str, url: URL, mode: str) -> None:
        self.name = name
        self.mode = mode
        self.statements = 0
        self.idle = 0.0
        self.seen: dict[tuple[int, str], int] = {}
        settings = {"application_name": f"demo {mode}"}
        self.engine = create_async_engine(url, connect_args={"server_settings": settings})
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.statements += 1

    async def follow(self, key: int, changed: asyncio.Event) -> None:
        """The worker: wait for each next state of an order."""
        async with AsyncSession(self.engine) as session:
            order = await session.get_one(Order, key)
        while order.status != STATES[-1]:
            async with AsyncSession(self.engine) as session:
                order = await wait_for_row_change(
                    session, Order, key, since=order, interval=INTERVAL, timeout=30
                )
            self.seen[key, order.status] = time.monotonic_ns()
            changed.set()


async def connections_held(engine: AsyncEngine, sides: list[Side]) -> dict[str, str]:
    """The connections that the server shows while all workers wait."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name "
        "AND datname = current_database()"
    )
    held = {}
    async with engine.connect() as connection:
        for side in sides:
            listening = await connection.scalar(text(query), {"name": f"rowbell demo {side.mode}"})
            held[side.name] = f"{listening} listening, {await held_in_pool(side)} pooled"
    return held


async def held_in_pool(side: Side) -> int:
    """The number of connections that stay checked out, without those of a running read."""
    taken: list[int] = []
    for _ in range(5):
        taken.append(int(side.engine.pool.status().rsplit(":", 1)[-1]))
        await asyncio.sleep(INTERVAL / 25)
    return min(taken)


async def run(url: URL) -> None:
    """Follow the orders in both ways at the same time."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        rows = [{"id": i, "status": STATES[0]} for i in range(1, ORDERS + 1)]
        await connection.execute(insert(Order), rows)
    woken, polled = sides = [Side("woken", url, "listen"), Side("polled", url, "poll")]
    committed: dict[tuple[int, str], int] = {}
    changed = asyncio.Event()
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(RowWatcher(side.engine, mode=side.mode))
            for side in sides
        ]
        async with asyncio.TaskGroup() as tasks:
            for side in sides:
                for key in range(1, ORDERS + 1):
                    tasks.create_task(side.follow(key, changed))
            await watchers[0].reached(lambda now: now.armed == ORDERS)
            await watchers[1].reached(lambda now: now.polled == ORDERS)
            await asyncio.sleep(INTERVAL / 5)  # running reads end
            before = [side.statements for side in sides]
            await asyncio.sleep(IDLE)
            for side, count in zip(sides, before, strict=True):
                side.idle = (side.statements - count) / IDLE
            held = await connections_held(engine, sides)
            console.print(f"{ORDERS} orders are awaited; another process now changes them.\n")
            writer = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("writer.py")),
                url.render_as_string(hide_password=False),
                str(ORDERS),
                stdout=asyncio.subprocess.PIPE,
            )
            tasks.create_task(show(committed, sides, changed))
            assert writer.stdout is not None
            async for line in writer.stdout:
                order, status, at = line.decode().split()
                committed[int(order), status] = int(at)
                changed.set()
            if await writer.wait():
                raise SystemExit("the writer failed")
    summarise(sides, committed, held)
    for each in (engine, woken.engine, polled.engine):
        await each.dispose()


async def show(
    committed: dict[tuple[int, str], int], sides: list[Side], changed: asyncio.Event
) -> None:
    """Print each change after both sides have seen it."""
    shown: set[tuple[int, str]] = set()
    while len(shown) < ORDERS * (len(STATES) - 1):
        await changed.wait()
        changed.clear()
        for change in [c for c in committed if c not in shown]:
            if all(change in side.seen for side in sides):
                shown.add(change)
                times = "".join(
                    f"  {side.name} after {(side.seen[change] - committed[change]) / 1e6:7.1f} ms"
                    for side in sides
                )
                console.print(f"order {change[0]} [bold]{change[1]:<10}[/bold]{times}")


def summarise(
    sides: list[Side], committed: dict[tuple[int, str], int], held: dict[str, str]
) -> None:
    """Print the summary."""
    table = Table(title=f"\n{len(committed)} changes, from commit to the refreshed row")
    for heading in ("", "p50", "p99", "queries", "idle, /s"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_column("connections held")
    for side in sides:
        latencies = [(side.seen[c] - at) / 1e6 for c, at in committed.items()]
        percentiles = quantiles(latencies, n=100, method="inclusive")
        table.add_row(
            side.name,
            f"{percentiles[49]:.1f} ms",
            f"{percentiles[98]:.1f} ms",
            str(side.statements),
            f"{side.idle:.1f}",
            held[side.name],
        )
    console.print(table)


async def new_database(server: URL, name: str) -> None:
    """Create an empty database, in place of that of an earlier demo."""
    await drop_database(name, server_url=server, missing_ok=True)
    await create_database(name, server_url=server)


def main() -> None:
    """Start PostgreSQL, migrate the database, and run the demo."""
    began = time.monotonic()
    with server_url() as server:
        url = server.set(database="rowbell_demo")
        asyncio.run(new_database(server, "rowbell_demo"))
        os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
        ready = time.monotonic() - began
        console.print(f"PostgreSQL is up and migrated, triggers installed ({ready:.1f} s).")
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
