"""A soak test: many waits, many writers, and one fault after the other.

``python soak/soak.py --seconds 600 --seed 7`` starts a server with a hot standby, relays, a cluster
of NATS servers, processes that wait, processes that write, and an agent that causes faults. Then
the oracle decides for each wait whether it was right. The exit status is 1 if a wait was not right,
or if something was left behind. ``--sabotage`` shows that the oracle finds lost changes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import waiting
import writing
from agent import break_things, sabotage
from faults import Scene, connected
from log import Log, Tally, records
from oracle import BOUND, Oracle
from plan import FAULTS
from relays import Fleet
from report import show
from rowbell.relay import NatsNotifier, SocketNotifier
from servers import Servers
from tables import RELAY, SETUP, TIMES, WAITER, WRITER, create

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import SpawnProcess

PROGRESS: Final = 10.0
"""How often a line of progress is printed, in seconds."""

SETTLE: Final = 15.0
"""How long waits go on after the last fault and the last write, in seconds.

It is longer than waits may sleep. Only waits without their own watcher may sleep longer."""

CROWDS: Final = (
    ("steady", 2, 320, 1),
    ("relayed", 1, 320, 2),
    ("passing", 1, 160, 2),
    ("alone", 1, 200, 2),
)
"""The manner, the number of processes, and for each process the numbers of actors and engines."""

OFFICES: Final = 2
ACTORS: Final = 16
"""The number of processes that write, and the number of actors in each."""

LEAVE: Final = 40.0
"""How long a process may take to end, in seconds."""


def through(fleet: Fleet) -> Sequence[SocketNotifier | NatsNotifier]:
    """What the processes listen through that do not listen themselves."""
    return (
        SocketNotifier(fleet.socket),
        NatsNotifier(fleet.urls("shop"), application="shop"),
    )


def start(
    servers: Servers, fleet: Fleet, arguments: argparse.Namespace, logs: Path
) -> list[SpawnProcess]:
    """Start the processes that wait, then those that write."""
    context = multiprocessing.get_context("spawn")
    end = time.monotonic() + arguments.seconds
    processes: list[SpawnProcess] = []
    for manner, count, actors, places in CROWDS:
        for number in range(count):
            crowd = waiting.Crowd(
                name=f"{manner}{number}",
                manner=manner,
                seed=arguments.seed,
                url=servers.url(WAITER),
                actors=max(1, round(actors * arguments.scale)),
                places=places,
                until=end,
                heartbeat=arguments.heartbeat,
                directory=logs,
                through=through(fleet) if manner == "relayed" else (),
            )
            processes.append(context.Process(target=waiting.run, args=(crowd,), name=crowd.name))
    for number in range(OFFICES):
        office = writing.Office(
            name=f"writer{number}",
            seed=arguments.seed,
            url=servers.url(WRITER),
            actors=ACTORS,
            until=end - SETTLE,
            directory=logs,
        )
        processes.append(context.Process(target=writing.run, args=(office,), name=office.name))
    for process in processes:
        process.daemon = True
        process.start()
    return processes


async def tell(logs: Path, seconds: float) -> None:
    """Print a line of progress regularly."""
    tally, begun = Tally(logs), time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS)
        counts = tally.look()
        print(
            f"{time.monotonic() - begun:4.0f} of {seconds:.0f} s: {counts['wait']:,} waits,"
            f" {counts['commit']:,} transactions, {counts['fault']} faults",
            flush=True,
        )


async def prepare(servers: Servers, log: Log) -> None:
    """Create the tables, and log the time at which they were filled."""
    engine = create_async_engine(servers.url(), poolclass=NullPool)
    sent = time.monotonic()
    async with engine.begin() as connection:
        await create(connection)
    await engine.dispose()
    log.write(
        "commit", token=SETUP, how=SETUP, outcome="committed", sent=sent, done=time.monotonic()
    )


async def soak(scene: Scene, arguments: argparse.Namespace, log: Log, end: float) -> None:
    """Cause faults while the processes wait and write."""
    until = end - SETTLE - 2
    work = [break_things(scene, log, arguments.seed, arguments.only or FAULTS, until)]
    if arguments.sabotage:
        work.append(sabotage(scene, end - 1))
    await asyncio.gather(*work)
    await asyncio.sleep(max(0.0, end - time.monotonic()))


async def left_behind(scene: Scene, log: Log) -> list[str]:
    """Return what is left on the server after all watchers are closed, and log the journal."""
    leaks: list[str] = []
    async with connected(scene) as connection:
        rows: list[Any] = []
        for _ in range(50):  # a closed session takes a moment to end
            rows = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE application_name LIKE 'rowbell%' OR application_name LIKE 'soak%'"
            )
            if not rows:
                break
            await asyncio.sleep(0.1)
        leaks += [f"a connection is left: {row[0]}" for row in rows]
        count = "SELECT count(*) FROM rowbell.listener UNION ALL SELECT count(*) FROM"
        count += " rowbell.registration"
        before = [row[0] for row in await connection.fetch(count)]
        # Lost sessions leave rows. The next heartbeat would delete them; this stands in for it.
        await connection.execute("SELECT rowbell.delete_stale()")
        listeners, registrations = [row[0] for row in await connection.fetch(count)]
        print(f"left to the next heartbeat: {before[0]} listeners, {before[1]} registrations")
        if listeners or registrations:
            leaks.append(f"rows are left: {listeners} of listeners, {registrations} registrations")
        if prepared := await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts"):
            print(f"{prepared} transactions are still prepared")
        async with connection.transaction():
            async for row in connection.cursor("SELECT * FROM journal"):
                token, table, key, number, present, mark, n = row
                log.write(
                    "journal",
                    token=token,
                    table=table,
                    key=key,
                    number=number,
                    present=present,
                    mark=mark,
                    n=n,
                )
    return leaks


def ended(processes: list[SpawnProcess]) -> list[str]:
    """Wait for the processes to end. Return the errors with which they ended."""
    wrong: list[str] = []
    limit = time.monotonic() + LEAVE
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
        if process.exitcode is None:
            wrong.append(f"{process.name} does not end")
            process.kill()
        elif process.exitcode:
            wrong.append(f"{process.name} failed with {process.exitcode}")
    return wrong


def main() -> int:
    """Run the soak test."""
    parser = argparse.ArgumentParser(description="Many waits, many writers, many faults.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--scale", type=float, default=1.0, help="how many wait, by this factor")
    parser.add_argument("--sabotage", action="store_true", help="lose changes on purpose")
    parser.add_argument("--bound", type=float, default=BOUND, help="calm seconds to notice in")
    parser.add_argument("--only", action="append", choices=FAULTS, help="break nothing but that")
    parser.add_argument("--logs", type=Path, help="keep the logs there")
    arguments = parser.parse_args()
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="soak-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, {arguments.seconds:g} s, logs in {logs}", flush=True)
    # If changes are lost on purpose, nobody shall notice that registrations are gone.
    arguments.heartbeat = 3600.0 if arguments.sabotage else TIMES["heartbeat"]
    with ExitStack() as stack:
        servers, log = (
            stack.enter_context(Servers()),
            stack.enter_context(Log(logs / "agent.jsonl")),
        )
        asyncio.run(prepare(servers, log))
        fleet = stack.enter_context(Fleet(servers.url(RELAY), arguments.heartbeat, logs))
        if not fleet.network.is_real:
            print("no network namespaces here: nothing is cut off", flush=True)
        os.environ["SSL_CERT_FILE"] = fleet.authority  # of the processes that are started
        end = time.monotonic() + arguments.seconds
        processes = start(servers, fleet, arguments, logs)
        crowds = sum(count for _, count, _, _ in CROWDS)
        scene = Scene(servers, fleet, tuple(process.pid or 0 for process in processes[:crowds]))

        async def all_of_it() -> None:
            telling = asyncio.create_task(tell(logs, arguments.seconds))
            try:
                await soak(scene, arguments, log, end)
            finally:
                telling.cancel()

        asyncio.run(all_of_it())
        leaks = ended(processes) + fleet.leave()
        with suppress(asyncpg.PostgresError):
            leaks += asyncio.run(left_behind(scene, log))
    oracle = Oracle(records(logs), arguments.bound)
    right = show(oracle, leaks, logs)
    if right and arguments.logs is None:
        shutil.rmtree(logs)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
