"""What each request of a watcher passes before its watch is put on the board."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowbell._watch.narrowing import narrowed
from rowbell._watch.reasons import explain
from rowbell._watch.state import Mode
from rowbell.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.connections import Connections
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.state import StateLog
    from rowbell._watch.timing import Timing


class Entrance:
    """The entrance to one watcher's board.

    Args:
        connections: The connections for queries.
        mode: Whether waits must be armed.
        state: The log for waits that can only be polled.
        timing: The watcher's times.
        check_open: Raises if the watcher is not open.
    """

    def __init__(
        self,
        connections: Connections,
        mode: Mode,
        state: StateLog,
        timing: Timing,
        check_open: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._mode = mode
        self._state = state
        self._timing = timing
        self._check_open = check_open

    def check_open(self) -> None:
        """Raise if the watcher is not open.

        Raises:
            WatcherStateError: It is not.
        """
        self._check_open()

    async def passed(self, request: WaitRequest) -> WaitRequest:
        """The request for the row's own class.

        Raises:
            WatcherStateError: The watcher is not open, or was closed meanwhile.
            ListenError: The row can only be polled, and ``mode="listen"``.
            Exception: The query for the class failed, for a reason that does not pass.
        """
        self._check_open()
        begun = asyncio.get_running_loop().time()
        request = await narrowed(request, self._connections, begun, self._timing, self._check_open)
        if (reason := request.never_armed) and self._mode is not Mode.POLL:
            if self._mode is Mode.LISTEN:
                raise ListenError(reason, explain(reason, request.subject))
            self._state.warn(reason, request.subject)
        return request
