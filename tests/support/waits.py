"""Waits that only a notification or a heartbeat can end, and what is done to triggers meanwhile."""

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
"""For connections that are broken: what does not answer is soon given up."""

HOUR: Final = 3600.0
"""An interval at which no test ends: what ends the wait is not polling."""


async def armed_wait(watcher: RowWatcher, *what: Any, **more: Any) -> asyncio.Task[Any]:
    """A wait that is armed. It has no timeout, whose last read would find a change that was lost.

    Args:
        watcher: The watcher of the wait.
        what: A class and a key, or a session, a class and a key; order 1 by default.
        more: Further arguments of the wait.
    """
    before = watcher.statistics().armed
    return await _begun(watcher, what, {"interval": HOUR, **more}, lambda now: now.armed > before)


async def armed_waits(
    watcher: RowWatcher, keys: Collection[Any], model: type[Any] = Order, **more: Any
) -> list[asyncio.Task[Any]]:
    """The same, for many rows of one class."""
    armed = watcher.statistics().armed + len(keys)
    more.setdefault("interval", HOUR)
    waits = [asyncio.create_task(watcher.wait_for_change(model, key, **more)) for key in keys]
    await watcher.reached(lambda now: now.armed == armed)
    return waits


async def polled_wait(watcher: RowWatcher, *what: Any, **more: Any) -> asyncio.Task[Any]:
    """The same, of a wait that is polled: it has its baseline, and was read again since."""
    before = watcher.statistics().queries
    return await _begun(watcher, what, more, lambda now: now.queries > before + 1)


async def polled_because(
    watcher: RowWatcher, reason: Reason, *what: Any, **more: Any
) -> asyncio.Task[Any]:
    """The same, of a wait that is polled for that reason, and soon again."""
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
    """The wait as a task, once the watcher's statistics say that it has begun, or it has ended."""
    task = asyncio.create_task(wait)
    reached = asyncio.create_task(watcher.reached(is_begun))
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    return task


@asynccontextmanager
async def armed_on(
    watching: RowWatcher, *, interval: float = HOUR
) -> AsyncGenerator[tuple[RowWatcher, asyncio.Task[Any]]]:
    """A watcher that is opened, and an armed wait for order 1."""
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
    """A watcher, and armed waits for those rows (for row 1 by default): one, or a list of them."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=timing) as watcher:
        waits = await armed_waits(watcher, keys or (1,), model, **more)
        yield watcher, waits if len(waits) > 1 else waits[0]


def reconnected(before: int, *, armed: int | None = None) -> Callable[[WatcherStatistics], bool]:
    """Whether the watcher listens again, after so many reconnects, and has so many armed waits."""

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
    """Install, remove or ask, in a transaction of its own."""
    async with engine.begin() as connection:
        return await connection.run_sync(lambda c: function(c, *models, **more))


async def state_of(engine: AsyncEngine, model: Any = Order) -> TriggerState:
    """What stands on a table."""
    [status] = await run(engine, trigger_status, model)
    state: TriggerState = status.state
    return state


async def states(engine: AsyncEngine, *models: Any) -> list[TriggerState]:
    """What stands on each table."""
    async with engine.connect() as connection:
        found = await connection.run_sync(trigger_status, *models)
    return [status.state for status in found]


async def woken(engine: AsyncEngine, model: type[Any], key: Any, *statements: str) -> Any:
    """A wait that only a notification can end, ended by those statements."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, model, key)
        async with engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        return await wait
