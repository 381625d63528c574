"""The cost of one notification in the process, by the number of waits."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any, TypedDict

from sqlalchemy import URL

import rowbell
from counters import memory
from goal import Goal
from many_waits import armed
from part import Part
from section import Section
from spread import Spread, cell, extremes, ratios, short
from table import connected, model, prepared
from turns import turns
from ways import install

SIZES = (1, 100, 10_000)
TABLE = "notified"
RATIO_GOAL = Goal(1.3)

CHANNEL = "SELECT rowbell.channel(max(number)) FROM rowbell.listener"
# Each payload names the watched row. All payloads differ; the server would send equal ones once.
SEND = (
    f"SELECT count(pg_notify($1, '1:' || '{TABLE}'::regclass::oid || ':' ||"
    " hash_record_extended(ROW(1), 0) || ',' || i)) FROM generate_series(1, $2::int) AS i"
)


class Burst(TypedDict):
    """Many notifications for one row: the growth of memory in MiB, and the reads of the row."""

    count: int
    mib: float
    reads: int


class Cost(TypedDict):
    """The CPU time of a notification in microseconds, and its ratio to that with one wait."""

    microseconds: Spread
    ratio: Spread


class Notifications(TypedDict):
    rounds: int
    count: int
    waits: dict[str, Cost]  # by their number, as text because of JSON
    burst: Burst


class Sender:
    """Sends notifications of the row with key 1 to a watcher's listener."""

    def __init__(self, connection: Any, watcher: rowbell.RowWatcher, channel: str) -> None:
        self._connection, self._watcher, self._channel = connection, watcher, channel

    async def send(self, count: int) -> float:
        """The CPU time of this process for each notification, in microseconds."""
        target = self._watcher.statistics().notifications + count
        cpu = time.process_time()
        await self._connection.fetchval(SEND, self._channel, count)
        while self._watcher.statistics().notifications < target:
            await asyncio.sleep(0.1)  # polled, because waiting for statistics takes CPU time too
        return 1e6 * (time.process_time() - cpu) / count

    async def burst(self, count: int) -> Burst:
        """Send that many notifications, one after the other."""
        gc.collect()
        before, reads = memory(), self._watcher.statistics().rereads
        for _ in range(count // 20_000):
            await self.send(20_000)
        return Burst(
            count=count,
            mib=short((memory() - before) / 2**20),
            reads=self._watcher.statistics().rereads - reads,
        )


async def measure(url: URL, *, quick: bool) -> Notifications:
    """Measure each number of waits, in random order. The first round also has a burst."""
    count, rounds = (2_000, 2) if quick else (20_000, 5)
    costs: dict[int, list[float]] = {size: [] for size in SIZES}
    burst: Burst | None = None
    async with connected(url) as connection, prepared(url, TABLE, max(SIZES)) as engine:
        await install(engine, TABLE)
        for _, size in turns("notifications", SIZES, rounds):
            async with (
                rowbell.RowWatcher(engine, mode="listen", recheck=None) as watcher,
                armed(watcher, model(TABLE), size),
            ):
                sender = Sender(connection, watcher, str(await connection.fetchval(CHANNEL)))
                await sender.send(200)
                costs[size].append(await sender.send(count))
                if size == 1 and burst is None:
                    burst = await sender.burst(200_000 if quick else 1_000_000)
    assert burst is not None
    return Notifications(
        rounds=rounds,
        count=count,
        waits={
            str(size): Cost(
                microseconds=extremes(taken), ratio=extremes(ratios(taken, costs[SIZES[0]]))
            )
            for size, taken in costs.items()
        },
        burst=burst,
    )


def section(notifications: Notifications) -> Section:
    """The section of the page."""
    burst = notifications["burst"]
    found = Section(
        "One notification",
        f"CPU time of the process for each of {notifications['count']:,} notifications of one"
        f" watched row, by the number of waits; {notifications['rounds']} rounds in random order,"
        " median [least..most].",
        ["waits", "microseconds", "ratio to one wait", "goal"],
        notes=f"After {burst['count']:,} notifications for one row, memory has grown by"
        f" {burst['mib']:.1f} MiB, and the row has been read {burst['reads']:,} times."
        " Notifications that arrive during a read cause one more read.",
    )
    for size, cost in notifications["waits"].items():
        goal = RATIO_GOAL.verdict(cost["ratio"]["median"]) if int(size) == max(SIZES) else ""
        cells = [cell(cost["microseconds"], 1), cell(cost["ratio"])]
        found.rows.append([f"{int(size):,}", *cells, goal])
    return found


NOTIFICATIONS = Part("notifications", measure, section)
