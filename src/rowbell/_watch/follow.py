"""Following one row: each state that differs from the last one, until something ends it."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

from rowbell._watch.board.step import Step, StepWatch
from rowbell._watch.observers import take_notice
from rowbell._watch.predicate_timer import PredicateTimer
from rowbell.errors import NotFoundError, WatcherStateError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

ModelT = TypeVar("ModelT")


class Place:
    """The watch that a follow has on the board. It does not refer to the follow.

    Between two steps the last watch stays there. It is over, so its row is not read, but it stays
    registered.

    Args:
        board: The board.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._timer: PredicateTimer | None = None
        self.watch: StepWatch | None = None

    def put(self, watch: StepWatch) -> None:
        """Replace the watch. The next one joins the registration that the last one leaves."""
        self.leave()
        self.watch = watch
        if watch.request.predicate is not None:
            self._timer = PredicateTimer(watch)
        self._board.add(watch)

    def leave(self) -> None:
        """Take the watch off the board."""
        if self._timer is not None:
            self._timer.stop()
        if self.watch is not None:
            self._board.discard(self.watch)
            take_notice(self.watch.result)
        self.watch = self._timer = None


class _OnTheBoard(Protocol):
    def leave(self) -> None: ...


def leave_from_any_thread(place: _OnTheBoard, loop: AbstractEventLoop) -> None:
    """Leave the board: the follow was collected, perhaps by another thread."""
    if loop.is_closed():
        return
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        place.leave()
    else:
        loop.call_soon_threadsafe(place.leave)


class Follow(AsyncIterator[ModelT], Generic[ModelT]):
    """The states of one row, one after the other. ``RowWatcher.follow()`` returns it.

    Each iteration returns the row, as an instance that belongs to no session, as soon as it differs
    from the last one. States in between may be skipped, the last one never is. Nothing is held
    between two iterations: no task, no connection, no lock. An iteration may be cancelled, for
    example by a timeout; the next one goes on. To stop, leave the loop and drop the object;
    ``aclose()`` and ``async with`` stop it at once.

    Followers of the same row may get the same instance: do not change it.

    Attributes:
        ended: Why it has ended: ``"until"`` (the condition holds), ``"deleted"`` (the row was
            deleted), or ``"closed"`` (it, or its watcher, was closed); ``None`` while it goes on.
    """

    def __init__(self, request: WaitRequest, board: Board, entrance: Entrance) -> None:
        self.ended: Literal["until", "deleted", "closed"] | None = None
        self._asked = self._request = request
        self._entrance = entrance
        self._has_passed = False
        self._is_iterating = False
        self._seen: tuple[Any, ...] | None = None
        self._place = Place(board)
        self._finalizer = weakref.finalize(
            self, leave_from_any_thread, self._place, asyncio.get_running_loop()
        )
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelT:
        """The next state of the row.

        Raises:
            StopAsyncIteration: It has ended.
            NotFoundError: The row does not exist; only at the first iteration.
            WatcherStateError: Another task is iterating.
            DBAPIError: The row cannot be read, for a reason that does not pass.
        """
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next state of this follow: use one follow for each task"
            )
        self._is_iterating = True
        try:
            instance: ModelT = await self._next()
            return instance
        finally:
            self._is_iterating = False

    async def _next(self) -> Any:
        while self.ended is None:
            try:
                step = await self._step()
            except NotFoundError as error:
                await self._missed(error)
            except WatcherStateError:
                self._end("closed")
            except asyncio.CancelledError:
                raise
            except BaseException:
                self._place.leave()  # the next iteration tries again
                raise
            else:
                self._seen = step.values
                if step.is_last:
                    self._end("until")
                if step.is_news:
                    return step.instance
        raise StopAsyncIteration

    async def _missed(self, error: NotFoundError) -> None:
        """The row does not exist, or belongs to another subclass, as which it is followed then."""
        self._place.leave()
        before = self._request
        if self._asked.again is not None:
            try:
                self._request = await self._entrance.passed(self._asked)
            except WatcherStateError:
                return self._end("closed")
        if self._request.rows is not before.rows:
            self._seen = None
        elif error.deleted or self._seen is not None:
            self._end("deleted")
        else:
            raise error
        return None

    def _end(self, why: Literal["until", "deleted", "closed"]) -> None:
        self.ended = self.ended or why
        self._place.leave()

    async def _step(self) -> Step:
        if not self._has_passed:
            self._request, self._has_passed = await self._entrance.passed(self._asked), True
        watch = self._place.watch
        # The last iteration was cancelled. A change that was found since is not the latest state,
        # unless it is one for which the condition holds.
        is_stale = watch is not None and watch.is_over and not _is_last(watch)
        if watch is None or is_stale or self._is_delivered(watch):
            self._entrance.check_open()
            watch = self._next_watch(watch)
            self._place.put(watch)
        await asyncio.wait([watch.result])  # a cancellation leaves the result where it is
        step: Step = watch.result.result()
        return step

    def _is_delivered(self, watch: StepWatch) -> bool:
        return (
            watch.is_over
            and watch.result.exception() is None
            and (watch.result.result().values is self._seen)
        )

    def _next_watch(self, last: StepWatch | None) -> StepWatch:
        request = self._request
        watch = StepWatch(
            request,
            math.inf,
            asyncio.get_running_loop().create_future(),
            wants_instance=True,
            never_armed=request.never_armed,
            is_first=self._seen is None and request.since is None,
        )
        if self._seen is not None:
            watch.observation.begin(self._seen)
        if last is not None and not self._is_delivered(last) and last.observation.is_absent:
            watch.observation.miss()  # the row was deleted, and its next state is news
        return watch

    async def aclose(self) -> None:
        """End it. An iteration of another task ends too."""
        watch = self._place.watch
        if watch is not None:
            watch.fail(WatcherStateError("the follow was closed"))
        self._end("closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _is_last(watch: StepWatch) -> bool:
    if watch.result.exception() is not None:
        return False
    step: Step = watch.result.result()
    return step.is_last
