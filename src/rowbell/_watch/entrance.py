"""What each request of a watcher passes before its watch is put on the board."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowbell._watch.followed_row import FollowEndedError
from rowbell._watch.narrowing import narrowed
from rowbell._watch.reasons import explain
from rowbell._watch.state import Mode
from rowbell.errors import ListenError, WatcherStateError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Sequence

    from rowbell._watch.connections import Connections
    from rowbell._watch.lifetime import Lifetime
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
        life: The watcher's life.
    """

    def __init__(
        self,
        connections: Connections,
        mode: Mode,
        state: StateLog,
        timing: Timing,
        life: Lifetime,
    ) -> None:
        self._connections = connections
        self._mode = mode
        self._state = state
        self._timing = timing
        self._life = life

    def check_loop(self) -> None:
        """Refuse another event loop than the watcher's.

        Raises:
            WatcherStateError: It is another one.
        """
        self._life.check_loop()

    async def pause(self, until: float, closing: Future[None]) -> None:
        """Wait until a time on the event loop's clock, or until closed.

        Raises:
            WatcherStateError: The watcher is not open, or was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        over = [closing, self._life.over]
        await asyncio.wait(
            over, timeout=max(until - loop.time(), 0), return_when=asyncio.FIRST_COMPLETED
        )
        self._life.check_open()

    def refuse_ended(self) -> None:
        """End a follow whose watcher is not open any more.

        Raises:
            FollowEndedError: It is not.
        """
        try:
            self._life.check_open()
        except WatcherStateError as error:
            raise FollowEndedError("closed") from error

    async def passed(self, request: WaitRequest) -> WaitRequest:
        """The request for the row's own class.

        Raises:
            WatcherStateError: The watcher is not open, or was closed meanwhile.
            ListenError: The row can only be polled, and ``mode="listen"``.
            Exception: The query for the class failed, for a reason that does not pass.
        """
        [passed] = await self.passed_all([request])
        return passed

    async def followed(self, requests: Sequence[WaitRequest]) -> list[WaitRequest]:
        """The same for follows, which end with their watcher.

        Raises:
            FollowEndedError: The watcher is not open, or was closed meanwhile.
        """
        try:
            return await self.passed_all(requests)
        except WatcherStateError as error:
            raise FollowEndedError("closed") from error

    async def passed_all(self, requests: Sequence[WaitRequest]) -> list[WaitRequest]:
        """The same for requests for one class, by one query."""
        self._life.check_open()
        passed = await narrowed(requests, self._connections, self._timing, self._life.check_open)
        for request in passed:
            if (reason := request.never_armed) and self._mode is not Mode.POLL:
                if self._mode is Mode.LISTEN:
                    raise ListenError(reason, explain(reason, request.subject))
                self._state.warn(reason, request.subject)
        return passed
