"""The time limit of a wait's last read, for a server that does not answer."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from rowbell._watch.board.watch import Watch

_STEPS: Final = 10


class LastRead:
    """Ends a wait some seconds after its deadline, unless its last read has ended it before.

    Only time in which the event loop runs is counted, in steps of a tenth. While the event loop is
    blocked or the process is stopped, an answer that has arrived cannot be processed.

    Args:
        watch: The wait.
        seconds: The longest time that its last read may take.
    """

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self._seconds = seconds
        self._steps = 0
        self._loop = asyncio.get_running_loop()
        self._timer: TimerHandle | None = None
        if watch.deadline < math.inf:
            self._timer = self._loop.call_at(watch.deadline, self._step)

    def _step(self) -> None:
        if self._steps == _STEPS:
            self._watch.time_out("the server has not answered since")
            return
        self._steps += 1
        self._timer = self._loop.call_later(self._seconds / _STEPS, self._step)

    def stop(self) -> None:
        """The wait has ended."""
        if self._timer is not None:
            self._timer.cancel()
