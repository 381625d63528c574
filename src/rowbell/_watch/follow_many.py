"""Following many rows of a class: first each as it is, then whichever has changed."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import deque
from collections.abc import AsyncIterator, Hashable
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from rowbell._watch.board.step import Step, StepWatch
from rowbell._watch.follow import Place, leave_from_any_thread
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterable

    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

ModelT = TypeVar("ModelT")


class _Row:
    """One of the rows.

    Args:
        key: The key as the caller gave it.
        request: The request for it.
        place: Its place on the board.
    """

    def __init__(self, key: object, request: WaitRequest, place: Place) -> None:
        self.key = key
        self.request = request
        self.place = place
        self.step: Step | None = None


class _Rows:
    """All rows of a follow, and those that have news. It does not refer to the follow."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.by_key: dict[Hashable, _Row] = {}
        self.news: deque[tuple[_Row, StepWatch]] = deque()
        self.changed = asyncio.Event()

    def watch(self, row: _Row) -> None:
        """Begin the next step of a row."""
        last, request = row.step, row.request
        watch = StepWatch(
            request,
            math.inf,
            asyncio.get_running_loop().create_future(),
            wants_instance=True,
            never_armed=request.never_armed,
            is_first=last is None,
            absence_is_news=True,
        )
        if last is not None and last.instance is None:
            watch.observation.miss()
        elif last is not None:
            watch.observation.begin(last.values)
        watch.result.add_done_callback(self._ended(row, watch))
        row.place.put(watch)

    def _ended(self, row: _Row, watch: StepWatch) -> Callable[[Future[Any]], None]:
        def ended(_: Future[Any]) -> None:
            if row.place.watch is watch:
                self.news.append((row, watch))
                self.changed.set()

        return ended

    def discard(self, row: _Row) -> None:
        """Do not follow a row any more."""
        del self.by_key[row.request.key]
        row.place.leave()

    def leave(self) -> None:
        """Take all watches off the board."""
        for row in list(self.by_key.values()):
            self.discard(row)
        self.news.clear()


class FollowMany(AsyncIterator[tuple[Any, "ModelT | None"]], Generic[ModelT]):
    """The states of many rows. ``RowWatcher.follow_many()`` returns it.

    Each iteration returns a key, as it was given, and the row; ``None`` if it does not exist. First
    each row as it is, then whichever has changed. What is said about ``Follow`` holds here, too.
    With ``until``, a row for which it holds is not followed any more.

    Attributes:
        ended: Why it has ended: ``"until"`` (the condition has held for each row) or ``"closed"``
            (it, or its watcher, was closed); ``None`` while it goes on.
    """

    def __init__(
        self,
        request: Callable[[object], WaitRequest],
        keys: Iterable[object],
        board: Board,
        entrance: Entrance,
    ) -> None:
        self.ended: Literal["until", "closed"] | None = None
        self._request = request
        self._entrance = entrance
        self._rows = _Rows(board)
        self._new: deque[_Row] = deque()
        self._has_until = self._is_iterating = False
        for key in keys:
            self.add(key)
        self._finalizer = weakref.finalize(
            self, leave_from_any_thread, self._rows, asyncio.get_running_loop()
        )
        self._finalizer.atexit = False

    def add(self, key: object) -> None:
        """Follow one more row. A key that is already followed changes nothing.

        Raises:
            InvalidKeyError: It is not a key of the model.
            WatcherStateError: The follow has ended.
        """
        if self.ended is not None:
            raise WatcherStateError(f"the follow has ended ({self.ended}): begin another one")
        request = self._request(key)
        self._has_until = request.until is not None
        if request.key not in self._rows.by_key:
            row = _Row(key, request, Place(self._rows.board))
            self._rows.by_key[request.key] = row
            self._new.append(row)
            self._rows.changed.set()

    def discard(self, key: object) -> None:
        """Stop following a row. A key that is not followed changes nothing."""
        row = self._rows.by_key.get(self._request(key).key)
        if row is not None:
            self._rows.discard(row)
            self._rows.changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, ModelT | None]:
        """A row with news.

        Raises:
            StopAsyncIteration: It, or its watcher, was closed.
            WatcherStateError: Another task is iterating.
            DBAPIError: A row cannot be read, for a reason that does not pass.
        """
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next row of this follow: use one follow for each task"
            )
        self._is_iterating = True
        try:
            return await self._next()
        finally:
            self._is_iterating = False

    async def _next(self) -> tuple[Any, Any]:
        rows = self._rows
        while self.ended is None:
            try:
                await self._begin_new()
                while rows.news:
                    row, watch = rows.news.popleft()
                    if row.place.watch is watch:
                        return row.key, self._step(row, watch).instance
            except WatcherStateError:
                self._end("closed")
            if self._has_until and not rows.by_key:
                self._end("until")
            elif self.ended is None:
                rows.changed.clear()
                await rows.changed.wait()
        raise StopAsyncIteration

    def _step(self, row: _Row, watch: StepWatch) -> Step:
        """The step that has ended. The next one begins, also after an error."""
        rows, error = self._rows, watch.result.exception()
        if error is not None:
            if not isinstance(error, WatcherStateError):
                rows.watch(row)
            raise error
        step: Step = watch.result.result()
        row.step = step
        if step.is_last:
            rows.discard(row)
        else:
            rows.watch(row)
        return step

    def _end(self, why: Literal["until", "closed"]) -> None:
        self.ended = self.ended or why
        self._rows.leave()
        self._rows.changed.set()

    async def _begin_new(self) -> None:
        while self._new:
            row = self._new[0]
            request = await self._entrance.passed(row.request)
            self._new.popleft()
            row.request = request
            if self._rows.by_key.get(row.request.key) is row:
                self._rows.watch(row)

    async def aclose(self) -> None:
        """End it. An iteration of another task ends too."""
        self._end("closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
