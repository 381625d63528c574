"""Those who wait for a watcher's statistics to be such and such."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rowbell._watch.failures import as_result
from rowbell._watch.state import WatcherState
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

    from rowbell._watch.statistics import WatcherStatistics


class Observers:
    """Conditions on the statistics, and who waits for each."""

    def __init__(self) -> None:
        self._waiting: dict[Future[None], Callable[[WatcherStatistics], object]] = {}

    async def reached(self, condition: Callable[[WatcherStatistics], object]) -> None:
        """Wait until a look finds the condition true.

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

    def look(self, statistics: Callable[[], WatcherStatistics]) -> None:
        """Something has changed: whose condition is true now?"""
        if not self._waiting:
            return
        now = statistics()
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
            except BaseException as error:  # noqa: BLE001  # the caller's condition: his error
                reached.set_exception(as_result(error))


def take_notice(result: Future[Any]) -> None:
    """An error that came together with a cancellation is nobody's; asyncio would log it."""
    if result.done() and not result.cancelled():
        result.exception()
