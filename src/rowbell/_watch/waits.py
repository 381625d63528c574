"""The waits of one watcher, from the request to the result; and how each has ended."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rowbell._watch.board.watch import Watch
from rowbell._watch.follow_wait import waited_by_following
from rowbell._watch.last_read import LastRead
from rowbell._watch.observers import take_notice
from rowbell._watch.predicate_timer import PredicateTimer
from rowbell.errors import NotFoundError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.timing import Timing


class Outcome(StrEnum):
    """How a wait has ended."""

    NOTIFIED = "notified"
    """A notification caused the read that ended it."""
    POLLED = "polled"
    """Another read has ended it: the first, one of its interval, or a safety re-read."""
    TIMED_OUT = "timed_out"
    """No change within its timeout."""
    DELETED = "deleted"
    """The row was deleted, or did not exist."""
    CANCELLED = "cancelled"
    """Its caller has given it up."""
    FAILED = "failed"
    """The row cannot be read, the watcher was closed, or a predicate has failed."""


@dataclass(frozen=True, slots=True)
class WaitEnd:
    """The end of one wait. It has neither the key nor a value.

    Attributes:
        table: The table of the class that was waited for, with its schema if the model names one.
        outcome: How it has ended.
        seconds: How long it has lasted.
    """

    table: str
    outcome: Outcome
    seconds: float


class Waits:
    """The waits of one watcher.

    Args:
        board: The board that their watches are put on.
        entrance: What they pass before.
        timing: The watcher's times.
    """

    def __init__(self, board: Board, entrance: Entrance, timing: Timing) -> None:
        self._board = board
        self._entrance = entrance
        self._timing = timing
        self._observers: list[Callable[[WaitEnd], None]] = []

    def on_end(self, observer: Callable[[WaitEnd], None]) -> Callable[[], None]:
        """Call a function at the end of each wait. Calling what is returned stops that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer) if observer in self._observers else None

    async def wait(self, request: WaitRequest, *, wants_instance: bool) -> Any:
        """Wait as requested. Without ``wants_instance`` the result may be ``None``."""
        begun = asyncio.get_running_loop().time()
        deadline = request.deadline(begun)
        if not self._observers:
            return await self._waited(request, deadline, _Woken(), wants_instance=wants_instance)
        with self._told(request, begun) as woken:
            return await self._waited(request, deadline, woken, wants_instance=wants_instance)

    async def _waited(
        self, request: WaitRequest, deadline: float, woken: _Woken, *, wants_instance: bool
    ) -> Any:
        if request.waits_for_missing and request.again is not None:
            follow = waited_by_following(self._board, self._entrance, request, deadline)
            found, woken.by_notification = await follow
            return found if wants_instance else None
        request = await self._entrance.passed(request)
        watch = Watch(
            request,
            deadline,
            result=asyncio.get_running_loop().create_future(),
            wants_instance=wants_instance,
            never_armed=request.never_armed,
        )
        last_read = LastRead(watch, self._timing.last_read)
        predicate = PredicateTimer(watch) if request.predicate else None
        try:
            self._board.add(watch)
            return await watch.result
        finally:
            woken.by_notification = watch.was_notified
            last_read.stop()
            if predicate:
                predicate.stop()
            self._board.discard(watch)
            take_notice(watch.result)

    @contextmanager
    def _told(self, request: WaitRequest, begun: float) -> Generator[_Woken]:
        """Tell the observers how the block has ended."""
        woken, outcome = _Woken(), Outcome.FAILED
        try:
            yield woken
            outcome = Outcome.NOTIFIED if woken.by_notification else Outcome.POLLED
        except NotFoundError:
            outcome = Outcome.DELETED
            raise
        except WaitTimeoutError:
            outcome = Outcome.TIMED_OUT
            raise
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            seconds = asyncio.get_running_loop().time() - begun
            end = WaitEnd(_table_of(request), outcome, seconds)
            for observer in list(self._observers):
                observer(end)


def _table_of(request: WaitRequest) -> str:
    rows = request.rows
    return str(getattr(rows.mapper.local_table, "fullname", rows.model.__name__))


@dataclass(slots=True)
class _Woken:
    """What has ended a wait."""

    by_notification: bool = False
