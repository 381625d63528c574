"""Waits that only a notification or a heartbeat can end, and what is done to triggers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher, Timing, TriggerState, trigger_status
from support.models import Order

QUICK = Timing(heartbeat=0.1, narrow=0.1, backoff=0.05)
IMPATIENT = Timing(
    heartbeat=0.1, answer=0.3, connect=2.0, proof=0.5, backoff=0.02, backoff_limit=0.1, narrow=0.1
)
"""For connections that are broken: what does not answer is soon given up."""


@asynccontextmanager
async def armed(
    engine: AsyncEngine,
    model: type[Any] = Order,
    *keys: Any,
    timing: Timing = QUICK,
    **more: Any,
) -> AsyncGenerator[tuple[RowWatcher, Any]]:
    """A watcher, and armed waits for those rows (for row 1 by default): one, or a list of them."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=timing) as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(model, key, interval=60, timeout=20, **more)
            )
            for key in keys or (1,)
        ]
        await watcher.reached(lambda now: now.armed == len(waits))
        yield watcher, waits if len(waits) > 1 else waits[0]


async def run(engine: AsyncEngine, function: Any, *models: Any, **more: Any) -> Any:
    """Install, remove or ask, in a transaction of its own."""
    async with engine.begin() as connection:
        return await connection.run_sync(lambda c: function(c, *models, **more))


async def state_of(engine: AsyncEngine, model: Any = Order) -> TriggerState:
    """What stands on a table."""
    [status] = await run(engine, trigger_status, model)
    state: TriggerState = status.state
    return state
