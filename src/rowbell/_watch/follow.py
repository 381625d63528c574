"""Following one row: each state that differs from the last one, until something ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

import anyio

from rowbell._watch.followed_row import FollowedRow, FollowEndedError
from rowbell._watch.place import leave_when_collected
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.board.step import Step
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

ModelT = TypeVar("ModelT")


class Follow(AsyncIterator[ModelT], Generic[ModelT]):
    """The states of one row, one after the other. ``RowWatcher.follow()`` returns it.

    Each iteration returns the row, as an instance that belongs to no session, as soon as it differs
    from the last one. States in between may be skipped, the last one never is. Nothing is held
    between two iterations: no task, no connection, no lock; and the row is not read. An iteration
    may be cancelled, for example by a timeout; the next one goes on. To stop, leave the loop and
    drop the object; ``aclose()`` and ``async with`` stop it at once.

    Followers of the same row may get the same instance: do not change it.

    Attributes:
        ended: Why it has ended: ``"until"`` (the condition holds), ``"deleted"`` (the row was
            deleted), or ``"closed"`` (it was closed, or its watcher was closed or failed); ``None``
            while it goes on.
        was_notified: Whether a notification caused the read of the last state.
    """

    def __init__(self, request: WaitRequest, board: Board, entrance: Entrance) -> None:
        self.ended: Literal["until", "deleted", "closed"] | None = None
        self.was_notified: bool = False
        self._entrance = entrance
        self._is_iterating = False
        self._query: anyio.CancelScope | None = None  # of the row's class, while it runs
        self._row = FollowedRow(request, board, reports_absence=False)
        leave_when_collected(self, self._row.place)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelT:
        """The next state of the row.

        Raises:
            StopAsyncIteration: It has ended.
            NotFoundError: The row does not exist; only before its first state.
            WatcherStateError: Another task is iterating, or it belongs to another event loop.
            ListenError: ``mode="listen"``, and the row can only be polled.
            DBAPIError: The row cannot be read, for a reason that does not pass.
        """
        self._entrance.check_loop()
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next state of this follow: use one follow for each task"
            )
        self._is_iterating = True
        try:
            while self.ended is None:
                step = await self._step()
                if step is not None and step.is_news:
                    instance: ModelT = step.instance
                    return instance
        except FollowEndedError as end:
            self._end(end.why)
        finally:
            self._is_iterating = False
        raise StopAsyncIteration

    async def _step(self) -> Step | None:
        """The next step; ``None`` if there is none yet."""
        row = self._row
        if row.request is None:
            with anyio.CancelScope() as self._query:
                [request] = await self._entrance.followed([row.asked])
                row.narrow(request)
            self._query = None
        if self.ended is not None or row.request is None:
            return None
        row.forget_stale()
        watch = row.pending
        if watch is None:
            self._entrance.refuse_ended()
            watch = row.put(row.request)
        await asyncio.wait([watch.result])  # a cancellation leaves the result where it is
        self.was_notified = watch.was_notified
        step = row.take(watch)
        if step is not None and step.is_last:
            self._end("until")
        return step

    def _end(self, why: Literal["until", "deleted", "closed"]) -> None:
        self.ended = self.ended or why
        self._row.place.leave()

    def close(self) -> None:
        """End it. An iteration of another task ends too."""
        if self._query is not None:
            self._query.cancel()
        if self._row.pending is not None:
            self._row.pending.fail(WatcherStateError("the follow was closed"))
        self._end("closed")

    async def aclose(self) -> None:
        """The same, as for asynchronous generators."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
