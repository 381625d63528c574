"""Waits that only a notification or a heartbeat can end, and helpers for triggers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell import (
    Reason,
    RowWatcher,
    Timing,
    TriggerState,
    WatcherState,
    WatcherStatistics,
    trigger_status,
    wait_for_row_change,
)
from support.models import Order

LISTENING: Final = WatcherState.LISTENING
POLLING: Final = WatcherState.POLLING

QUICK: Final = Timing(heartbeat=0.1, narrow=0.1, backoff=0.05)
IMPATIENT: Final = Timing(
    heartbeat=0.1, answer=0.3, connect=2.0, proof=0.5, backoff=0.02, backoff_limit=0.1, narrow=0.1
)
"""For broken connections: short timeouts."""

HOUR: Final = 3600.0
"""An interval longer than any test, so that polling does not end the wait."""


async def armed_wait(watcher: RowWatcher, *what: Any, **more: Any) -> asyncio.Task[Any]:
    """An armed wait. It has no timeout, because the last read would find a lost change.

    Args:
        watcher: The watcher of the wait.
        what: A class and a key, or a session, a class and a key; order 1 by default.
        more: Other arguments of the wait.
    """
    before = watcher.statistics().armed
    return await _begun(watcher, what, {"interval": HOUR, **more}, lambda now: now.armed > before)


async def armed_waits(
    watcher: RowWatcher, keys: Collection[Any], model: type[Any] = Order, **more: Any
) -> list[asyncio.Task[Any]]:
    """Armed waits for many rows of one class."""
    armed = watcher.statistics().armed + len(keys)
    more.setdefault("interval", HOUR)
    waits = [asyncio.create_task(watcher.wait_for_change(model, key, **more)) for key in keys]
    await watcher.reached(lambda now: now.armed == armed)
    return waits


async def polled_wait(watcher: RowWatcher, *what: Any, **more: Any) -> asyncio.Task[Any]:
    """A polled wait. It has its baseline, and its row was read again since."""
    before = watcher.statistics().queries
    return await _begun(watcher, what, more, lambda now: now.queries > before + 1)


async def polled_because(
    watcher: RowWatcher, reason: Reason, *what: Any, **more: Any
) -> asyncio.Task[Any]:
    """A wait that is polled for that reason, at a short interval."""
    return await _begun(watcher, what, {"interval": 0.05, **more}, lambda now: now.reason is reason)


async def _begun(
    watcher: RowWatcher,
    what: tuple[Any, ...],
    more: dict[str, Any],
    is_begun: Callable[[WatcherStatistics], bool],
) -> asyncio.Task[Any]:
    what = what or (Order, 1)
    begin = wait_for_row_change if isinstance(what[0], AsyncSession) else watcher.wait_for_change
    return await until_begun(watcher, begin(*what, **more), is_begun)


async def until_begun(
    watcher: RowWatcher,
    wait: Coroutine[Any, Any, Any],
    is_begun: Callable[[WatcherStatistics], bool],
) -> asyncio.Task[Any]:
    """Start the wait as a task. Return when the statistics show that it has begun, or it ends."""
    task = asyncio.create_task(wait)
    reached = asyncio.create_task(watcher.reached(is_begun))
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    return task


@asynccontextmanager
async def armed_on(
    watching: RowWatcher, *, interval: float = HOUR
) -> AsyncGenerator[tuple[RowWatcher, asyncio.Task[Any]]]:
    """Open the watcher, and begin an armed wait for order 1."""
    async with watching as watcher:
        yield watcher, await armed_wait(watcher, interval=interval)


@asynccontextmanager
async def armed(
    engine: AsyncEngine,
    model: type[Any] = Order,
    *keys: Any,
    timing: Timing = QUICK,
    **more: Any,
) -> AsyncGenerator[tuple[RowWatcher, Any]]:
    """A watcher, and an armed wait for row 1 or that row, or a list of them for several rows."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=timing) as watcher:
        waits = await armed_waits(watcher, keys or (1,), model, **more)
        yield watcher, waits if len(waits) > 1 else waits[0]


def reconnected(before: int, *, armed: int | None = None) -> Callable[[WatcherStatistics], bool]:
    """Whether the watcher has reconnected since ``before``, and has that many armed waits."""

    def has(now: WatcherStatistics) -> bool:
        is_back = now.reconnects > before and now.state is LISTENING
        return is_back and armed in {None, now.armed}

    return has


def has_read(before: int) -> Callable[[WatcherStatistics], bool]:
    """Whether there were more queries than that."""
    return lambda now: now.queries > before


def notified(before: int) -> Callable[[WatcherStatistics], bool]:
    """Whether there were more notifications than that."""
    return lambda now: now.notifications > before


async def run(engine: AsyncEngine, function: Any, *models: Any, **more: Any) -> Any:
    """Call a function for triggers in its own transaction."""
    async with engine.begin() as connection:
        return await connection.run_sync(lambda c: function(c, *models, **more))


async def state_of(engine: AsyncEngine, model: Any = Order) -> TriggerState:
    """The state of a table's triggers."""
    [status] = await run(engine, trigger_status, model)
    state: TriggerState = status.state
    return state


async def states(engine: AsyncEngine, *models: Any) -> list[TriggerState]:
    """The state of each table's triggers."""
    async with engine.connect() as connection:
        found = await connection.run_sync(trigger_status, *models)
    return [status.state for status in found]


async def woken(engine: AsyncEngine, model: type[Any], key: Any, *statements: str) -> Any:
    """Begin a wait that only a notification can end, execute the statements, return its result."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, model, key)
        async with engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        return await wait
