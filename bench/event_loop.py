"""How long the event loop is blocked without a break."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

PERIOD = 0.001


@asynccontextmanager
async def blocks() -> AsyncGenerator[list[float]]:
    """The times in milliseconds for which the event loop is blocked inside the context.

    They do not include the garbage collector's time: a pass visits all objects of the process,
    independent of the allocation that starts it.
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
            await asyncio.sleep(PERIOD)
            elapsed = time.perf_counter() - before - (collecting - collected)
            found.append(1000 * (elapsed - PERIOD))

    gc.callbacks.append(collect)
    task = asyncio.create_task(look())
    await asyncio.sleep(0)
    try:
        yield found
    finally:
        task.cancel()
        gc.callbacks.remove(collect)
