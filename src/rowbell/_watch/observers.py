"""Waits for a condition on a watcher's statistics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rowbell._watch.failures import as_result
from rowbell._watch.state import WatcherState
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import Future, Handle
    from collections.abc import Callable

    from rowbell._watch.statistics import WatcherStatistics


class Observers:
    """The conditions on the statistics that callers wait for.

    Args:
        statistics: Returns the current statistics.
    """

    def __init__(self, statistics: Callable[[], WatcherStatistics]) -> None:
        self._statistics = statistics
        self._waiting: dict[Future[None], Callable[[WatcherStatistics], object]] = {}
        self._look: Handle | None = None

    async def reached(self, condition: Callable[[WatcherStatistics], object]) -> None:
        """Wait until the condition is true.

        Raises:
            WatcherStateError: The watcher was closed before that.
        """
        reached: Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = condition
        try:
            await reached
        finally:
            del self._waiting[reached]
            take_notice(reached)

    def changed(self) -> None:
        """Check the conditions in the next turn of the event loop, once for all changes."""
        if self._look is None and self._waiting:
            loop = next(iter(self._waiting)).get_loop()
            if not loop.is_closed():
                self._look = loop.call_soon(self._look_now)

    def _look_now(self) -> None:
        self._look = None
        if not self._waiting:
            return
        now = self._statistics()
        for reached, condition in self._waiting.items():
            if reached.done():
                continue
            try:
                if condition(now):
                    reached.set_result(None)
                elif now.state is WatcherState.CLOSED:
                    reached.set_exception(WatcherStateError("the watcher was closed"))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # the caller's condition may raise any
                reached.set_exception(as_result(error))


def take_notice(result: Future[Any]) -> None:
    """Retrieve an error that came together with a cancellation. Otherwise asyncio would log it."""
    if result.done() and not result.cancelled():
        result.exception()
