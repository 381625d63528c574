"""Waits for many rows at once, in one watcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import rowbell
from table import Row


@asynccontextmanager
async def begun(
    watcher: rowbell.RowWatcher, row: type[Row], count: int, **more: Any
) -> AsyncGenerator[list[asyncio.Task[Row]]]:
    """A wait for each of the first rows. Waits that have not returned are canceled at the end."""
    waits = [
        asyncio.create_task(watcher.wait_for_change(row, key, **more))
        for key in range(1, count + 1)
    ]
    yield waits
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)


@asynccontextmanager
async def armed(
    watcher: rowbell.RowWatcher, row: type[Row], count: int
) -> AsyncGenerator[list[asyncio.Task[Row]]]:
    """Such waits, after all of them are armed."""
    async with begun(watcher, row, count) as waits:
        await all_armed(watcher, count)
        yield waits


async def all_armed(watcher: rowbell.RowWatcher, count: int) -> None:
    """Wait until that many waits are armed."""
    await watcher.reached(lambda now: now.armed == count)
