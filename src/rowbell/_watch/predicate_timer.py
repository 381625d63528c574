"""Calls a predicate again while its row does not change, because it may depend on the time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowbell._watch.board.watch import Watch


class PredicateTimer:
    """Calls the predicate of a watch again at its interval, without a read.

    Args:
        watch: The watch, which has a predicate.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._later()

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._watch.request.interval, self._ask)

    def _ask(self) -> None:
        self._watch.ask_again()
        if not self._watch.is_over:
            self._later()

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
