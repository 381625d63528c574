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
    from asyncio import Future

    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

_JITTER: Final = 0.1
"""The longest time by which the interval is exceeded, as a part of it."""

_PROOF_LIMIT: Final = 1.0
"""The longest time to wait for the proof, in seconds. A shorter interval is the limit."""


class ResyncReason(StrEnum):
    """Why a list must be loaded again."""

    START = "start"
    """It is the first time."""
    CHANGED = "changed"
    """A row was inserted, updated (in a declared column) or deleted, or a table was truncated."""
    GAP = "gap"
    """Notifications may have been missed, for example because the connection was lost."""
    POLLED = "polled"
    """The interval has passed, and it is not proven that changes are notified."""


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

    def put(self, request: WaitRequest, *, is_first: bool) -> TableWatch:
        """Put a new watch on the board.

        Args:
            request: The request.
            is_first: Whether an error that does not pass ends it. Later ones are polled through.
        """
        self.leave()
        watch = self.watch = TableWatch(
            request,
            math.inf,
            asyncio.get_running_loop().create_future(),
            never_armed=request.never_armed,
        )
        watch.observation.is_found = not is_first
        # Not at once: the board may be iterating over its watches.
        watch.change.add_done_callback(lambda _: self._ended(watch))
        self._board.add(watch)
        if isinstance(watch.phase, Polled):
            watch.finish(False)  # noqa: FBT003
        return watch

    def _ended(self, watch: TableWatch) -> None:
        self._board.discard(watch)
        take_notice(watch.result)
        take_notice(watch.change)

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

    The first iteration returns when later changes will be told, or after a second, or at once if
    nothing can notify. After each, load the list, in a new transaction. The next iteration returns
    when something has changed since, but not before the interval has passed: what happens meanwhile
    is remembered, and is one ``Resync``. While nothing notifies of changes, there is one each
    interval. An iteration may be cancelled. A load that fails is the caller's to repeat. To stop,
    drop the object; ``aclose()`` and ``async with`` stop it at once.

    Attributes:
        ended: ``"closed"`` when it was closed, or when an iteration has found that its watcher was
            closed or has failed; ``None`` before.
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
        self._closing: Future[None] = asyncio.get_running_loop().create_future()
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
            DBAPIError: The database cannot be queried, for a reason that does not pass; only at
                the first iteration.
        """
        self._entrance.check_loop()
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next change: use one changes() for each task"
            )
        self._is_iterating = True
        try:
            if self.ended is None and (resync := await self._next()) is not None:
                return resync
        except WatcherStateError:
            self.ended = "closed"
            self._place.leave()
        finally:
            self._is_iterating = False
        raise StopAsyncIteration

    async def _next(self) -> Resync | None:
        """The next one; ``None`` if it was closed meanwhile."""
        if not self._has_passed:
            self._request, self._has_passed = await self._entrance.passed(self._request), True
        if self._is_relied_on and self._place.watch is not None:
            await asyncio.wait([self._place.watch.change])
        self._take_change()
        await self._entrance.pause(self._not_before, self._closing)
        self._take_change()
        if self.ended is not None:
            return None
        watch = self._place.watch
        if watch is None:
            is_first = self._why is ResyncReason.START
            watch = self._place.put(self._request, is_first=is_first)
        # The caller's load is the proof's read, so it must begin after the proof. A watch that is
        # not proven by then stays on the board, and is proven for a later iteration.
        limit = min(self._request.interval, _PROOF_LIMIT)
        await asyncio.wait([watch.result], timeout=limit)
        return None if self.ended is not None else self._answer(watch)

    def _take_change(self) -> None:
        """If the watch on the board has ended, remember why; the next iteration puts another."""
        watch = self._place.watch
        if watch is None or not watch.change.done():
            return
        self._is_relied_on = False
        self._place.leave()
        if (error := watch.change.exception()) is not None:
            self._wait_an_interval()
            raise error
        if self._why is not ResyncReason.START:
            is_notified = watch.change.result() is Change.NOTIFIED
            self._why = ResyncReason.CHANGED if is_notified else ResyncReason.GAP

    def _answer(self, watch: TableWatch) -> Resync:
        """What the state of the watch means for the consumer."""
        if watch.result.done() and watch.result.exception() is not None:
            self._take_change()  # raises it
        is_proven = watch.result.done() and bool(watch.result.result())
        is_notified = watch.change.done() and watch.change.result() is Change.NOTIFIED
        otherwise = ResyncReason.CHANGED if is_notified else ResyncReason.POLLED
        reason = self._why or (ResyncReason.GAP if is_proven else otherwise)
        self._is_relied_on, self._why = is_proven, None
        if watch.result.done() and not is_proven:
            self._place.leave()
        self._wait_an_interval()
        return Resync(reason)

    def _wait_an_interval(self) -> None:
        """The next iteration returns after the interval at the earliest."""
        jitter = 1 + random.uniform(0, _JITTER)  # noqa: S311
        now = asyncio.get_running_loop().time()
        self._not_before = now + self._request.interval * jitter

    def close(self) -> None:
        """End it. An iteration of another task ends too."""
        if self._place.watch is not None:
            self._place.watch.fail(WatcherStateError("it was closed"))
        if not self._closing.done():
            self._closing.set_result(None)
        self.ended = "closed"
        self._place.leave()

    async def aclose(self) -> None:
        """The same, as for asynchronous generators."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
