"""Following many rows of a class: first each as it is, then whichever has changed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import anyio

from rowbell._watch.followed_row import FollowedRow, FollowEndedError
from rowbell._watch.place import leave_when_collected
from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Hashable, Iterable

    from rowbell._watch.board.board import Board
    from rowbell._watch.board.step import StepWatch
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest

ModelT = TypeVar("ModelT")


class _Row(FollowedRow):
    """One of the rows.

    Attributes:
        key: The key as the caller gave it.
        identity: Equal for keys of the same row.
    """

    def __init__(self, key: object, asked: WaitRequest, board: Board) -> None:
        super().__init__(asked, board, reports_absence=True)
        self.key = key
        self.identity = identity_of(asked)


def identity_of(request: WaitRequest) -> Hashable:
    """What is equal for requests for the same row."""
    try:
        hash(request.key)
    except TypeError:  # an array or a document
        return repr(request.key)
    return request.key


class _Rows:
    """All rows of a follow, and those that have news. It does not refer to the follow.

    Attributes:
        by_key: The rows.
        idle: The rows whose next step has not begun.
        news: The rows whose step has ended.
        changed: Set when there may be something to do.
    """

    def __init__(self) -> None:
        self.by_key: dict[Hashable, _Row] = {}
        self.idle: list[_Row] = []
        self.news: deque[tuple[_Row, StepWatch]] = deque()
        self.changed = asyncio.Event()

    def begin(self) -> None:
        """Begin the next step of all idle rows whose class is known: one SELECT reads them."""
        idle, self.idle = self.idle, []
        for row in idle:
            if not self.has(row):
                continue
            if row.request is None:
                self.idle.append(row)
            else:
                watch = row.put(row.request)
                watch.result.add_done_callback(self._ended(row, watch))

    def _ended(self, row: _Row, watch: StepWatch) -> Callable[[Future[Any]], None]:
        def ended(_: Future[Any]) -> None:
            if row.pending is watch:
                self.news.append((row, watch))
                self.changed.set()

        return ended

    def has(self, row: _Row) -> bool:
        """Whether the row is still followed."""
        return self.by_key.get(row.identity) is row

    def discard(self, row: _Row) -> None:
        """Do not follow a row any more."""
        self.by_key.pop(row.identity, None)
        row.pending = None
        row.place.leave()

    def leave(self) -> None:
        """Take all watches off the board."""
        for row in list(self.by_key.values()):
            self.discard(row)
        self.idle.clear()
        self.news.clear()

    def take_notice(self) -> None:
        """Retrieve errors that nobody has asked for. Otherwise asyncio would log them."""
        for row in self.by_key.values():
            row.place.take_notice()


class FollowMany(AsyncIterator[tuple[Any, "ModelT | None"]], Generic[ModelT]):
    """The states of many rows. ``RowWatcher.follow_many()`` returns it.

    Each iteration returns a key, as it was given, and the row; ``None`` if it does not exist. First
    each row as it is, then whichever has changed. With ``until``, a row for which it holds is not
    followed any more. Nor is a row whose reading has raised an error. Otherwise, what is said about
    ``Follow`` holds here, too.

    Attributes:
        ended: Why it has ended: ``"until"`` (no row is left) or ``"closed"`` (it was closed, or its
            watcher was closed or failed); ``None`` while it goes on.
    """

    def __init__(
        self,
        request: Callable[[object], WaitRequest],
        keys: Iterable[object],
        board: Board,
        entrance: Entrance,
        *,
        has_until: bool,
    ) -> None:
        self.ended: Literal["until", "closed"] | None = None
        self._request = request
        self._board = board
        self._entrance = entrance
        self._has_until = has_until
        self._is_iterating = False
        self._query: anyio.CancelScope | None = None  # of the rows' classes, while it runs
        self._rows = _Rows()
        for key in keys:
            self.add(key)
        leave_when_collected(self, self._rows)

    def add(self, key: object) -> None:
        """Follow one more row. A key that is already followed changes nothing.

        Raises:
            InvalidKeyError: It is not a key of the model.
            WatcherStateError: The follow has ended.
        """
        if self.ended is not None:
            raise WatcherStateError(f"the follow has ended ({self.ended}): begin another one")
        request = self._request(key)
        row = _Row(key, request, self._board)
        if row.identity not in self._rows.by_key:
            self._rows.by_key[row.identity] = row
            self._rows.idle.append(row)
            self._rows.changed.set()

    def discard(self, key: object) -> None:
        """Stop following a row. A key that is not followed changes nothing."""
        row = self._rows.by_key.get(identity_of(self._request(key)))
        if row is not None:
            self._rows.discard(row)
            self._rows.changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, ModelT | None]:
        """A row with news.

        Raises:
            StopAsyncIteration: It has ended.
            WatcherStateError: Another task is iterating, or it belongs to another event loop.
            ListenError: ``mode="listen"``, and a row can only be polled.
            DBAPIError: A row cannot be read, for a reason that does not pass.
        """
        self._entrance.check_loop()
        if self._is_iterating:
            raise WatcherStateError(
                "another task waits for the next row of this follow: use one follow for each task"
            )
        self._is_iterating = True
        try:
            await asyncio.sleep(0)  # news that are already there must not hold up other tasks
            while self.ended is None:
                if (news := await self._news()) is not None:
                    return news
        except FollowEndedError:
            self._end("closed")
        finally:
            self._is_iterating = False
        raise StopAsyncIteration

    async def _news(self) -> tuple[Any, Any] | None:
        """The next row with news; ``None`` after waiting for one."""
        rows = self._rows
        while rows.news:
            row, watch = rows.news.popleft()
            if row.pending is watch and (news := self._taken(row, watch)):
                return news
        if rows.idle:
            await self._begin()
        if self._has_until and not rows.by_key:
            self._end("until")
        elif self.ended is None and not rows.news:
            rows.changed.clear()
            await rows.changed.wait()
        return None

    def _taken(self, row: _Row, watch: StepWatch) -> tuple[Any, Any] | None:
        try:
            step = row.take(watch)
        except Exception as error:
            if not isinstance(error, FollowEndedError):
                self._rows.discard(row)
            raise
        if step is not None and step.is_last:
            self._rows.discard(row)
        else:
            self._rows.idle.append(row)
        return None if step is None else (row.key, step.instance)

    async def _begin(self) -> None:
        """Begin the next step of each idle row, after its class was queried if need be."""
        rows = self._rows
        unknown = [row for row in rows.idle if row.request is None and rows.has(row)]
        if unknown:
            with anyio.CancelScope() as self._query:
                requests = await self._entrance.followed([row.asked for row in unknown])
                for row, request in zip(unknown, requests, strict=True):
                    row.narrow(request)
            self._query = None
        if self.ended is None:
            self._entrance.refuse_ended()
            rows.begin()

    def _end(self, why: Literal["until", "closed"]) -> None:
        self.ended = self.ended or why
        if self._query is not None:
            self._query.cancel()
        self._rows.leave()
        self._rows.changed.set()

    def __len__(self) -> int:
        """The number of rows that are followed."""
        return len(self._rows.by_key)

    def close(self) -> None:
        """End it. An iteration of another task ends too."""
        self._end("closed")

    async def aclose(self) -> None:
        """The same, as for asynchronous generators."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
