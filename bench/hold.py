"""How long an event loop is held up at a time, that is, what else it does has to wait."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager


@asynccontextmanager
async def holds() -> AsyncGenerator[list[float]]:
    """The stretches between two turns of the loop in the block, in milliseconds.

    Without the garbage collector's own time, which is the process's: it walks through all
    that the process has, whoever made the allocation that set it off.
    """
    found, collecting, begun = list[float](), 0.0, 0.0

    def collect(phase: str, _: Mapping[str, int]) -> None:
        nonlocal collecting, begun
        if phase == "start":
            begun = time.perf_counter()
        else:
            collecting += time.perf_counter() - begun

    async def look() -> None:
        while True:
            before, collected = time.perf_counter(), collecting
            await asyncio.sleep(0.001)
            stretch = time.perf_counter() - before - (collecting - collected)
            found.append(1000 * (stretch - 0.001))

    gc.callbacks.append(collect)
    task = asyncio.create_task(look())
    await asyncio.sleep(0)
    try:
        yield found
    finally:
        task.cancel()
        gc.callbacks.remove(collect)
