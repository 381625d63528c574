"""The changes of whole tables: when a list that was loaded from them must be loaded again."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, Self

from rowbell._watch.board.phases import Polled
from rowbell._watch.board.table_watch import Change, TableWatch
from rowbell._watch.observers import take_notice
from rowbell._watch.place import leave_when_collected
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

_JITTER: Final = 0.1
"""The longest time by which the interval is exceeded, as a part of it."""

_PROOF: Final = 1.0
"""The longest time to wait for the proof, in seconds. A shorter interval is the limit."""


class ResyncReason(StrEnum):
    """Why a list must be loaded again."""

    START = "start"
    """It is the first time."""
    CHANGED = "changed"
    """A row was inserted, updated or deleted, or a table was truncated."""
    GAP = "gap"
    """Notifications may have been missed, for example because the connection was lost."""
    POLLED = "polled"
    """The interval has passed, and nothing notifies of changes at present."""


@dataclass(frozen=True, slots=True)
class Resync:
    """The tables may have changed: load again.

    Attributes:
        reason: Why.
    """

    reason: ResyncReason


class _TablePlace:
    """The watch that is on the board. It does not refer to the ``Changes``."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.watch: TableWatch | None = None

    def put(self, request: WaitRequest) -> TableWatch:
        """Put a new watch on the board."""
        self.leave()
        watch = self.watch = TableWatch(
            request,
            math.inf,
            asyncio.get_running_loop().create_future(),
            never_armed=request.never_armed,
        )
        # Not at once: the board may be iterating over its watches.
        watch.change.add_done_callback(lambda _: self._board.discard(watch))
        self._board.add(watch)
        if isinstance(watch.phase, Polled):
            watch.finish(False)  # noqa: FBT003
        return watch

    def leave(self) -> None:
        """Take the watch off the board."""
        if self.watch is not None:
            self._board.discard(self.watch)
            self.take_notice()
            self.watch = None

    def take_notice(self) -> None:
        """Retrieve errors that nobody has asked for. Otherwise asyncio would log them."""
        if self.watch is not None:
            take_notice(self.watch.result)
            take_notice(self.watch.change)


class Changes(AsyncIterator[Resync]):
    """When a list must be loaded again. ``RowWatcher.changes()`` returns it.

    The first iteration returns as soon as later changes will be told, or after a second. After
    each, load the list, in a new transaction. The next iteration returns when something has changed
    since, but not before the interval has passed: what happens meanwhile is remembered, and is one
    ``Resync``. While nothing notifies of changes, there is one each interval. An iteration may be
    cancelled. To stop, drop the object; ``aclose()`` and ``async with`` stop it at once.

    Attributes:
        ended: ``"closed"`` when it, or its watcher, was closed, or the watcher has failed; ``None``
            before.
    """

    def __init__(self, request: WaitRequest, board: Board, entrance: Entrance) -> None:
        self.ended: Literal["closed"] | None = None
        self._request = request
        self._entrance = entrance
        self._is_iterating = False
        self._has_passed = False
        self._not_before = -math.inf  # when the next one may be returned, on the loop's clock
        self._why: ResyncReason | None = ResyncReason.START
        self._is_relied_on = False  # the watch on the board is proven, and that was returned
        self._place = _TablePlace(board)
        leave_when_collected(self, self._place)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Resync:
        """The next time to load.

        Raises:
            StopAsyncIteration: It has ended.
            WatcherStateError: Another task is iterating, or it belongs to another event loop.
            ListenError: ``mode="listen"``, and the tables can only be polled.
        """
        self._entrance.check_loop()
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next change: use one changes() for each task"
            )
        self._is_iterating = True
        try:
            if self.ended is None:
                return await self._next()
        except WatcherStateError:
            self.ended = "closed"
            self._place.leave()
        finally:
            self._is_iterating = False
        raise StopAsyncIteration

    async def _next(self) -> Resync:
        if not self._has_passed:
            self._request, self._has_passed = await self._entrance.passed(self._request), True
        if self._is_relied_on and self._place.watch is not None:
            self._why = await self._changed(self._place.watch)
            self._is_relied_on = False
            self._place.leave()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._not_before - loop.time(), 0))
        watch = self._place.watch
        if watch is None or watch.change.done():
            self._entrance.check_open()
            watch = self._place.put(self._request)
        # The caller's load is the proof's read, so it must begin after the proof. A watch that is
        # not proven by then stays on the board, and is proven for a later iteration.
        await asyncio.wait([watch.result], timeout=min(self._request.interval, _PROOF))
        is_proven = watch.result.done() and watch.result.result()
        reason = self._reason(watch, is_proven=is_proven)
        self._is_relied_on, self._why = is_proven, None
        if watch.result.done() and not is_proven:
            self._place.leave()
        jitter = 1 + random.uniform(0, _JITTER)  # noqa: S311
        self._not_before = loop.time() + self._request.interval * jitter
        return Resync(reason)

    def _reason(self, watch: TableWatch, *, is_proven: bool) -> ResyncReason:
        """Why the list must be loaded again."""
        if self._why is not None or is_proven:
            return self._why or ResyncReason.GAP
        is_notified = watch.change.done() and watch.change.result() is Change.NOTIFIED
        return ResyncReason.CHANGED if is_notified else ResyncReason.POLLED

    @staticmethod
    async def _changed(watch: TableWatch) -> ResyncReason:
        """Wait for a change after the proof."""
        await asyncio.wait([watch.change])  # a cancellation leaves the watch where it is
        is_notified = watch.change.result() is Change.NOTIFIED
        return ResyncReason.CHANGED if is_notified else ResyncReason.GAP

    async def aclose(self) -> None:
        """End it. An iteration of another task ends too."""
        if self._place.watch is not None:
            self._place.watch.fail(WatcherStateError("it was closed"))
        self.ended = "closed"
        self._place.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
