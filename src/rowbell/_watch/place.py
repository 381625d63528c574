"""The place that a follow has on the board. It does not refer to the follow."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Protocol

from rowbell._watch.observers import take_notice
from rowbell._watch.predicate_timer import PredicateTimer

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from rowbell._watch.board.board import Board
    from rowbell._watch.board.step import StepWatch


class Place:
    """A place for one watch.

    Between two steps the last watch stays there. It is over, so its row is not read, but it stays
    registered.

    Args:
        board: The board.

    Attributes:
        watch: The watch that is there.
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

    def take_notice(self) -> None:
        """Retrieve an error that nobody has asked for. Otherwise asyncio would log it."""
        if self.watch is not None:
            take_notice(self.watch.result)


class OnTheBoard(Protocol):
    """A place, or several."""

    def leave(self) -> None:
        """Take everything off the board."""
        ...

    def take_notice(self) -> None:
        """Retrieve errors that nobody has asked for."""
        ...


def leave_when_collected(follow: object, places: OnTheBoard) -> None:
    """Leave the board in the next turn of the event loop after the follow was collected.

    Not at once: the garbage collector may run while the board iterates over its watches, and in
    any thread.
    """
    finalizer = weakref.finalize(follow, _leave_soon, places, asyncio.get_running_loop())
    finalizer.atexit = False


def _leave_soon(places: OnTheBoard, loop: AbstractEventLoop) -> None:
    if loop.is_closed():
        places.take_notice()
    else:
        loop.call_soon_threadsafe(places.leave)
