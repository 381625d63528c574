"""Ten thousand waits in one process: armed, idle, woken together, polled, and rung for."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from statistics import median
from typing import Any

from sqlalchemy import URL, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from event_loop import blocks
from section import Section, progress, spread
from table import Row, Statements, connect, memory, model, prepare
from ways import install, with_polling

WAITS = 10_000
TABLE = "crowd"
GIVE_UP = 15
"""After how many seconds a wait that should have been told is counted as deaf."""

CONNECTIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


async def change_all(engine: AsyncEngine) -> None:
    """Change each row of the table."""
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE {TABLE} SET n = n + 1"))


async def read_all(engine: AsyncEngine, row: type[Row]) -> float:
    """The seconds that the ORM takes to read all rows once."""
    async with AsyncSession(engine) as session:
        begun = time.perf_counter()
        list(await session.scalars(select(row)))
        return time.perf_counter() - begun


@asynccontextmanager
async def waiting(
    watcher: rowbell.RowWatcher, row: type[Row], **more: Any
) -> AsyncGenerator[list[asyncio.Task[Row]]]:
    """A wait for each row."""
    waits = [
        asyncio.create_task(watcher.wait_for_change(row, key, **more))
        for key in range(1, WAITS + 1)
    ]
    yield waits
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)


async def with_sessions(engine: AsyncEngine, row: type[Row], statements: Statements) -> int:
    """The statements that wake all waits that have a session each."""
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:

        async def one(key: int) -> None:
            async with AsyncSession(engine) as session:
                await rowbell.wait_for_row_change(session, row, key)

        tasks = [asyncio.create_task(one(key)) for key in range(1, WAITS + 1)]
        await watcher.reached(lambda now: now.armed == WAITS)
        statements.count = -1
        await change_all(engine)
        await asyncio.gather(*tasks)
    return statements.count


async def memory_of_waits(engine: AsyncEngine, row: type[Row]) -> float:
    """KiB a wait, task included, as Python's allocator counts them."""
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:
        gc.collect()
        tracemalloc.start()
        async with waiting(watcher, row):
            await watcher.reached(lambda now: now.armed == WAITS)
            kib = tracemalloc.get_traced_memory()[0] / WAITS / 1024
        tracemalloc.stop()
    return kib


async def crowd(url: URL, *, quick: bool) -> Section:
    """Ten thousand waits: begun at once, idle, woken by one UPDATE."""
    engine, row = await prepare(url, TABLE, WAITS), model(TABLE)
    await install(engine, TABLE)
    statements, rounds, idle = Statements(engine), 2 if quick else 5, 5 if quick else 60
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for number in range(rounds):
        progress(f"crowd: round {number + 1} of {rounds}")
        async with rowbell.RowWatcher(engine, mode="listen") as watcher:
            gc.collect()
            statements.count, begun = 0, time.perf_counter()
            async with waiting(watcher, row) as waits:
                await watcher.reached(lambda now: now.armed == WAITS)
                note("armed", time.perf_counter() - begun)
                note("arming statements", statements.count)
                if number == 0:
                    statements.count, cpu = 0, time.process_time()
                    await asyncio.sleep(idle)
                    note("idle queries", statements.count / idle)
                    note("idle CPU", 100 * (time.process_time() - cpu) / idle)
                    await engine.dispose()
                    observer = await connect(url)
                    note("connections", await observer.fetchval(str(CONNECTIONS)))
                    await observer.close()
                    async with blocks() as stretches:
                        await asyncio.sleep(idle)
                    note("hold, idle", max(stretches))
                floor = min([await read_all(engine, row) for _ in range(3)])
                statements.count, begun = -1, time.perf_counter()
                await change_all(engine)
                told = time.perf_counter()
                async with blocks() as stretches:
                    await asyncio.wait(waits)
                note("woken", time.perf_counter() - told)
                note("hold, woken", max(stretches))
                note("update", told - begun)
                note("woken / ORM", found["woken"][-1] / floor)
                note("waking statements", statements.count)

        note("session statements", await with_sessions(engine, row, statements))
    note("KiB", await memory_of_waits(engine, row))
    await engine.dispose()

    def line(what: str, name: str, goal: str, digits: int = 2, unit: str = "") -> Sequence[str]:
        return [what, spread(found[name], digits, unit), goal]

    return Section(
        "crowd",
        f"{WAITS:,} waits in one process",
        f"For {WAITS:,} rows, triggers installed; {rounds} rounds, idle for {idle} s in the first"
        " of them. Statements are counted on all connections, the listener's included. The ORM's"
        " own reading of the rows is timed in the same process while the waits stand: median"
        " [least..most]. A hold is the longest stretch in which the event loop came to nothing"
        " else, without the garbage collector's time; idle, that is in another such minute, with"
        " the safety re-reads in it.",
        ["", "measured", "goal"],
        [
            line("connections to the server, armed and idle", "connections", "1", 0),
            line("queries a second, idle", "idle queries", "≤ 0.2"),
            line("CPU of the process, idle", "idle CPU", "not measurable", 2, " %"),
            line("hold of the event loop, idle", "hold, idle", "", 0, " ms"),
            line("memory a wait, task included", "KiB", "≤ 8 KiB", 1, " KiB"),
            line("all begun at once: armed after", "armed", "≤ 2 s", 2, " s"),
            line("statements that it took", "arming statements", "≤ 100", 0),
            line("one UPDATE of all rows: all woken after its commit", "woken", "", 2, " s"),
            line("against one reading of all rows by the ORM", "woken / ORM", "≤ 2"),
            line("statements that it took", "waking statements", "≤ 100", 0),
            line("hold of the event loop", "hold, woken", "", 0, " ms"),
            line("the same, each with a session of its own", "session statements", "≤ 10,100", 0),
        ],
    )


async def thousand(url: URL, *, quick: bool) -> Section:
    """A thousand waits, by each way."""
    count, idle, rounds = 1_000, 2 if quick else 5, 1 if quick else 3
    ways = with_polling(0.5)
    section = Section(
        "thousand",
        f"{count:,} waits, beside the peers",
        f"Each way has {count:,} waits for as many rows, is idle for {idle} s, and is told of one"
        " UPDATE of all rows, which begins 3 s and the idle time after the waits;"
        f" rounds: {rounds}, median [least..most]. fastapi-toolsets polls at"
        " its default interval of 0.5 s.",
        ["way", "connections, idle", "CPU, idle", "returned", "the last after"],
    )
    observer = await connect(url)
    for number, name in enumerate(ways):
        seconds, cpus, connections, returned = list[float](), list[float](), list[float](), 0
        for turn in range(rounds):
            progress(f"thousand: {name}, round {turn + 1} of {rounds}")
            table = f"thousand_{number}_{turn}"
            engine = await prepare(url, table, count)
            async with ways[name](engine, table) as wait:
                waits = [asyncio.ensure_future(wait(key, 0)) for key in range(1, count + 1)]
                await asyncio.sleep(3)
                cpu = time.process_time()
                await asyncio.sleep(idle)
                cpus.append(100 * (time.process_time() - cpu) / idle)
                connections.append(await observer.fetchval(str(CONNECTIONS)))
                await observer.execute(f"UPDATE {table} SET n = n + 1")
                begun = time.perf_counter()
                told, deaf = await asyncio.wait(waits, timeout=GIVE_UP)
                seconds.append(time.perf_counter() - begun)
                returned += len(told)
                for missed in deaf:
                    missed.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            await engine.dispose()
        last = spread(seconds, 2, " s") if returned == count * rounds else f"> {GIVE_UP} s"
        share = f"{returned:,} of {count * rounds:,}"
        section.rows.append([name, spread(connections, 0), spread(cpus, 1, " %"), share, last])
    await observer.close()
    return section


async def polled(url: URL, *, quick: bool) -> Section:
    """Ten thousand polled waits."""
    interval, seconds = 0.5, 4 if quick else 20
    engine, row = await prepare(url, TABLE, WAITS), model(TABLE)
    statements, late = Statements(engine), list[float]()
    writer = await connect(url)
    async with rowbell.RowWatcher(engine, mode="poll") as watcher:
        async with waiting(watcher, row, interval=interval) as waits:
            await watcher.reached(lambda now: now.rereads >= 5 * WAITS)
            statements.count, cpu, begun = 0, time.process_time(), time.perf_counter()

            async def changed(key: int) -> None:
                at = time.perf_counter()
                await writer.execute(f"UPDATE {TABLE} SET n = n + 1 WHERE id = $1", key)
                await waits[key - 1]
                late.append(time.perf_counter() - at)

            for key in random.sample(range(1, WAITS + 1), 20 * seconds):
                progress(f"polled: {time.perf_counter() - begun:.0f} s")
                task = asyncio.create_task(changed(key))
                await asyncio.sleep(0.05)
                await asyncio.wait([task])
            elapsed = time.perf_counter() - begun
            cpu = 100 * (time.process_time() - cpu) / elapsed
            ticks = elapsed / interval
            # A change that is found ends a wait, and its instance is one statement more.
            queries = (statements.count - len(late)) / ticks
            async with blocks() as stretches:
                await asyncio.sleep(seconds)
    await writer.close()
    await engine.dispose()
    return Section(
        "polled",
        f"{WAITS:,} polled waits",
        f"No trigger, interval {interval} s; single rows are changed at random moments.",
        ["", "measured", "goal"],
        [
            ["batched queries a tick", f"{queries:.1f}", "≤ 2"],
            ["from commit to return, median", f"{median(late):.2f} s", ""],
            ["from commit to return, the latest", f"{max(late):.2f} s", "≤ 1.0 s"],
            ["CPU of the process", f"{cpu:.0f} %", ""],
            ["hold of the event loop, the longest", f"{max(stretches):.0f} ms", ""],
        ],
    )


def all_armed(count: int, now: rowbell.WatcherStatistics) -> bool:
    """Whether that many waits are armed."""
    return now.armed == count


async def notifications(url: URL, *, quick: bool) -> Section:
    """What one notification costs the process, whatever the number of waits."""
    many, rounds = 2_000 if quick else 20_000, 2 if quick else 5
    engine, row = await prepare(url, TABLE, WAITS), model(TABLE)
    await install(engine, TABLE)
    sender, costs = await connect(url), dict[int, list[float]]()
    # Each payload names the row that is waited for, and differs, or the server would send one.
    send = (
        f"SELECT count(pg_notify($1, '1:' || '{TABLE}'::regclass::oid || ':' ||"
        " hash_record_extended(ROW(1), 0) || ',' || i)) FROM generate_series(1, $2::int) AS i"
    )
    channel = "SELECT rowbell.channel(max(number)) FROM rowbell.listener"

    async def heard(watcher: rowbell.RowWatcher, listener: str, count: int) -> float:
        """The microseconds of CPU that each of that many takes."""
        target = watcher.statistics().notifications + count
        cpu = time.process_time()
        await sender.fetchval(send, listener, count)
        while watcher.statistics().notifications < target:
            await asyncio.sleep(0.1)  # statistics are looked at, not waited for: that costs too
        return 1e6 * (time.process_time() - cpu) / count

    sizes, flood = (1, 100, WAITS), (list[float](), list[float]())
    for _ in range(rounds):
        for size in random.sample(sizes, len(sizes)):
            progress(f"notifications: {size} waits")
            async with rowbell.RowWatcher(engine, mode="listen", recheck=None) as watcher:
                waits = [
                    asyncio.create_task(watcher.wait_for_change(row, key))
                    for key in range(1, size + 1)
                ]
                await watcher.reached(partial(all_armed, size))
                listener = str(await sender.fetchval(channel))
                await heard(watcher, listener, 200)
                costs.setdefault(size, []).append(await heard(watcher, listener, many))
                if size == 1 and len(flood[0]) == 0:
                    gc.collect()
                    before, reads = memory(), watcher.statistics().rereads
                    for _ in range(10 if quick else 50):
                        await heard(watcher, listener, 20_000)
                    flood[0].append((memory() - before) / 2**20)
                    flood[1].append(watcher.statistics().rereads - reads)
                for wait in waits:
                    wait.cancel()
                await asyncio.wait(waits)
    await sender.close()
    await engine.dispose()
    section = Section(
        "notifications",
        "One notification",
        f"CPU time of the process for each of {many:,} notifications of one watched row, by the"
        f" number of waits; {rounds} rounds in random turn, median [least..most]. The goal is a"
        " factor of 1.3 between one wait and ten thousand.",
        ["waits", "microseconds", "ratio to one wait"],
    )
    for size in sizes:
        ratios = [a / b for a, b in zip(costs[size], costs[1], strict=True)]
        section.rows.append([f"{size:,}", spread(costs[size], 1), spread(ratios)])
    section.notes = (
        f"A flood of {200_000 if quick else 1_000_000:,} notifications for one row: memory grew by"
        f" {flood[0][0]:.1f} MiB, and the row was read {flood[1][0]:,.0f} times: what comes"
        " while it is being read is one more read."
    )
    return section
