"""No change is lost. Each watch begins while the only change of its row is in flight."""

from __future__ import annotations

import asyncio
import random
from typing import Literal, get_args

import asyncpg
import pytest
from sqlalchemy import URL, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher, Timing
from rowbell._watch.board import arming, phases
from support.models import Order

ROWS = 2_000
WRITERS = 8
TIMEOUT = 8.0
Isolation = Literal["read_committed", "repeatable_read"]


async def stress(engine: AsyncEngine, database: URL, isolation: Isolation) -> int:
    """Change each row once, while a watch for it begins. Return the number of lost changes."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, ROWS + 1)])
    order = list(range(1, ROWS + 1))
    random.Random(4711).shuffle(order)  # noqa: S311
    quiet = Timing(heartbeat=1000.0, narrow=1000.0)
    lost = 0
    async with RowWatcher(engine, mode="listen", recheck=None, timing=quiet) as watcher:

        async def wait(key: int) -> None:
            """A change is lost if only the last read, after the timeout, finds it."""
            nonlocal lost
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await watcher.wait_for_change(
                Order, key, interval=60, timeout=TIMEOUT, since={"n": 0}, columns=["n"]
            )
            lost += loop.time() - begun >= TIMEOUT

        async def write(keys: list[int], waits: asyncio.TaskGroup) -> None:
            connection = await asyncpg.connect(
                host=str(database.query.get("host", database.host)),
                port=database.port,
                user=database.username,
                password=database.password,
                database=database.database,
            )
            try:
                for key in keys:
                    delay = random.random() * 0.02  # noqa: S311
                    transaction = connection.transaction(isolation=isolation)
                    await transaction.start()
                    await connection.execute("UPDATE orders SET n = 1 WHERE id = $1", key)
                    waits.create_task(wait(key))
                    # Random delays spread the commits over the time of arming.
                    await asyncio.sleep(delay)
                    await transaction.commit()
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as waits:
            slices = [order[i::WRITERS] for i in range(WRITERS)]
            await asyncio.gather(*(write(keys, waits) for keys in slices))
    return lost


@pytest.mark.fault("B7")
@pytest.mark.parametrize("isolation", get_args(Isolation))
async def test_no_change_is_lost_while_a_watch_begins(
    engine: AsyncEngine, database: URL, isolation: Isolation
) -> None:
    """2,000 changes are in flight while the watches for their rows begin. None is lost."""
    assert await stress(engine, database, isolation) == 0


async def test_the_same_stress_loses_changes_without_arming(
    engine: AsyncEngine, database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the registration but without the read that proves it, changes are lost."""

    def believe(phase: phases.Phase, event: phases.Event, now: float) -> phases.Phase:
        after = phases.following(phase, event, now)
        return phases.Armed(now) if isinstance(after, phases.Proving) else after

    monkeypatch.setattr(arming, "following", believe)
    assert await stress(engine, database, "read_committed") > 0
