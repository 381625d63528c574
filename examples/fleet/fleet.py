"""A fleet on one LISTEN, while its parts are killed and frozen. Exit code 1: a change was lost.

    make fleet

starts PostgreSQL, PgBouncer where it is installed, NATS, a relay, a stand-by and twenty workers,
and changes their rows all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from fleet_worker import Base, Order
from ledger import Ledger, Worker
from programs import HERE, Broker, Pooler, Program, RelayProgram
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import install_triggers
from rowbell.embedded import EmbeddedServer

ROWS = 10  # of each worker
SETTLE = 30.0  # seconds after the last change


class Fleet:
    """The programs, and what happens to them."""

    def __init__(self, server: EmbeddedServer, engine: AsyncEngine, workers: int) -> None:
        self.ledger = Ledger()
        self.workers = workers
        self.listening = 0
        self.leader = "none"
        self.gaps: Counter[str] = Counter()
        self._server = server
        self._engine = engine
        self._programs: list[Program] = []
        self._stopped = asyncio.Event()
        libpq = f"postgresql://postgres@/postgres?host={server.directory}"
        self.broker = Broker()
        self.relays = [RelayProgram(libpq, self.broker.url("relay")) for _ in range(2)]

    # -- the parts

    async def prepare(self) -> None:
        """Create the table."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.run_sync(install_triggers, Order)
            rows = [{"id": row, "n": 0} for row in range(1, self.workers * ROWS + 1)]
            await connection.execute(Order.__table__.insert(), rows)  # type: ignore[attr-defined]

    async def start(self, stack: AsyncExitStack, folder: Path) -> None:
        """Start everything."""
        url = f"postgresql+asyncpg://postgres@/postgres?host={self._server.directory}"
        if shutil.which("pgbouncer"):
            pooler = Pooler(self._server.directory, self._server.system_user, folder)
            await stack.enter_async_context(pooler)
            url = pooler.url
        for part in (self.broker, *self.relays):
            await stack.enter_async_context(part)
        for number in range(self.workers):
            rows = (str(number * ROWS + 1), str((number + 1) * ROWS))
            command = (sys.executable, str(HERE / "fleet_worker.py"), url, self.broker.url("shop"))
            program = await stack.enter_async_context(Program(*command, *rows, reads=True))
            self._programs.append(program)

    async def listen_to(self, number: int) -> None:
        """Take in what a worker prints, also after it was started again."""
        self.ledger.workers[number] = Worker()
        while not self._stopped.is_set():
            process = self._programs[number].process
            assert process is not None
            assert process.stdout is not None
            while line := await process.stdout.readline():
                with suppress(ValueError):
                    self._take_in(number, json.loads(line))
            self.ledger.workers[number] = Worker()
            await asyncio.sleep(0.1)

    def _take_in(self, number: int, said: dict[str, int | float | str]) -> None:
        if "row" in said:
            self.ledger.see(int(said["row"]), int(said["n"]), float(said["when"]))
        else:
            armed, polled, reason = (said[name] for name in ("armed", "polled", "reason"))
            self.ledger.workers[number] = Worker(int(armed), int(polled), str(reason))

    async def write(self) -> None:
        """Change a row some fifty times a second."""
        change = text("UPDATE orders SET n = n + 1 WHERE id = :row RETURNING n")
        while not self._stopped.is_set():
            row = random.randint(1, self.workers * ROWS)
            with suppress(SQLAlchemyError, OSError):  # the server may be restarting
                async with self._engine.connect() as connection:
                    n = (await connection.execute(change, {"row": row})).scalar_one()
                    await connection.commit()
                    self.ledger.commit(row, n)
            await asyncio.sleep(0.02)

    async def observe(self) -> None:
        """Ask the relays and the server how they are."""
        query = text(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rowbell%'"
            " AND pid IN (SELECT backend_pid FROM rowbell.listener)"
        )
        while True:
            told = [await relay.status() for relay in self.relays]
            states = [status["state"] if status else "no answer" for status in told]
            terms = [status["term"] for status in told if status and status["state"] == "leading"]
            self.leader = f"{' · '.join(states)}; term {max(terms, default='-')}"
            self.gaps = sum((Counter(s["gaps"]) for s in told if s), Counter())
            with suppress(SQLAlchemyError, OSError):
                async with self._engine.connect() as connection:
                    self.listening = await connection.scalar(query) or 0
            await asyncio.sleep(0.5)

    # -- what happens

    async def leading(self) -> RelayProgram:
        """The relay that leads."""
        while True:
            for relay in self.relays:
                status = await relay.status()
                if status and status["state"] == "leading":
                    return relay
            await asyncio.sleep(0.1)

    async def run(self, pause: float) -> bool:
        """Let one thing after the other happen; return whether nothing was lost."""
        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "the leading relay is killed, and started again": self._kill_relay,
            "the leading relay is frozen for 6 s": self._freeze_relay,
            "NATS is killed, and started again": self._kill_broker,
            "NATS is frozen for 4 s": lambda: self.broker.freeze(4),
            "PostgreSQL is restarted": self._restart_server,
            "a worker is frozen for 5 s": lambda: self._programs[0].freeze(5),
            "a worker is killed, and started again": self._kill_worker,
        }
        await self.leading()
        total = self.workers * ROWS
        while sum(worker.armed for worker in self.ledger.workers.values()) < total * 0.8:
            await asyncio.sleep(0.1)
        for name, fault in faults.items():
            self.ledger.happens = name
            await fault()
            await asyncio.sleep(pause)
        self._stopped.set()
        self.ledger.happens = "no more changes: everything must be seen now"
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while self.ledger.unseen:
                    await asyncio.sleep(0.1)
        self.ledger.happens = "over"
        return not self.ledger.unseen

    async def _kill_relay(self) -> None:
        relay = await self.leading()
        await relay.kill()
        await asyncio.sleep(1)
        await relay.start()

    async def _freeze_relay(self) -> None:
        await (await self.leading()).freeze(6)

    async def _kill_broker(self) -> None:
        await self.broker.kill()
        await asyncio.sleep(2)
        await self.broker.start()

    async def _restart_server(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def _kill_worker(self) -> None:
        await self._programs[-1].kill()
        await self._programs[-1].start()

    # -- the table

    def shown(self) -> Table:
        """The table."""
        ledger, workers = self.ledger, self.ledger.workers.values()
        reasons = Counter(worker.reason for worker in workers if worker.reason)
        table = Table(title=f"A fleet on one LISTEN: {self.ledger.happens}", min_width=72)
        table.add_column("")
        table.add_column("now")
        rows = {
            "relays": self.leader,
            "LISTEN connections": self.listening,
            "waits armed": sum(worker.armed for worker in workers),
            "waits polled": sum(worker.polled for worker in workers),
            "why": ", ".join(f"{why} ({count})" for why, count in reasons.items()),
            "changes written": ledger.written,
            "waits woken": ledger.woken,
            "seen after 1 s": ledger.late,
            "worst delay, s": f"{max(ledger.worst.values(), default=0):.1f}",
            "not seen yet": f"{ledger.unseen}, the oldest for {ledger.longest_unseen():.1f} s",
            "gaps": ", ".join(f"{cause}: {count}" for cause, count in self.gaps.items()) or "none",
            "lost": ledger.unseen if self.ledger.happens == "over" else 0,
        }
        for name, value in rows.items():
            table.add_row(name, str(value))
        table.add_section()
        for happened, worst in ledger.worst.items():
            table.add_row(happened, f"worst delay {worst:.1f} s")
        return table


async def main(workers: int, pause: float) -> bool:
    """Run the fleet; return whether nothing was lost."""
    with EmbeddedServer({"max_connections": 200}) as server, tempfile.TemporaryDirectory() as made:
        engine = create_async_engine(server.url)
        fleet = Fleet(server, engine, workers)
        await fleet.prepare()
        async with AsyncExitStack() as stack:
            await fleet.start(stack, Path(made))
            console = Console()
            tasks = [
                asyncio.create_task(work)
                for work in (fleet.write(), fleet.observe(), *map(fleet.listen_to, range(workers)))
            ]
            try:
                with Live(get_renderable=fleet.shown, console=console, refresh_per_second=4):
                    return await fleet.run(pause)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds after each fault")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(main(given.workers, given.pause)) else 1)
