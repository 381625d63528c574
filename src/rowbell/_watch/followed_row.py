"""One row that is followed: its steps, also when its class changes or it does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.exc import InvalidRequestError

from rowbell._watch.board.step import Seen, Step, StepWatch
from rowbell._watch.place import Place
from rowbell.errors import NotFoundError, WatcherStateError

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.rows.mapped_rows import MappedRows


class FollowEndedError(Exception):
    """Nothing will come any more.

    Args:
        why: As in ``Follow.ended``.
    """

    def __init__(self, why: Literal["deleted", "closed"]) -> None:
        self.why: Literal["deleted", "closed"] = why
        super().__init__(why)


class FollowedRow:
    """One row, from step to step.

    Args:
        asked: The request, for the class that the caller has named.
        board: The board.
        reports_absence: Whether it is a state that the row does not exist.

    Attributes:
        asked: As given.
        request: The request for the row's own class; ``None`` while that class must be queried.
        place: Its place on the board.
        pending: The watch of the current step, until its end is taken.
    """

    def __init__(self, asked: WaitRequest, board: Board, *, reports_absence: bool) -> None:
        self.asked = asked
        self.request: WaitRequest | None = None
        self.place = Place(board)
        self.pending: StepWatch | None = None
        self._reports_absence = reports_absence
        self._seen = Seen(asked)
        self._rows: MappedRows | None = None

    def narrow(self, request: WaitRequest) -> None:
        """The row belongs to the class of this request."""
        if self._rows is not None and self._rows is not request.rows:
            self._seen.begin_again()
        self.request, self._rows = request, request.rows

    @property
    def _is_narrowed(self) -> bool:
        return self._rows is not None and self._rows is not self.asked.rows

    def put(self, request: WaitRequest) -> StepWatch:
        """Put the watch of the next step on the board."""
        # A row that its own class has lost may exist as another one.
        lost_is_news = request.waits_for_missing and self._is_narrowed
        absence_is_news = self._reports_absence or lost_is_news
        watch = self._seen.next_watch(request, absence_is_news=absence_is_news)
        self.pending = watch
        self.place.put(watch)
        return watch

    def forget_stale(self) -> None:
        """The current step has ended unnoticed, so the row may have changed again since.

        A state for which the condition held stays.
        """
        watch = self.pending
        if watch is not None and watch.is_over and not _is_last(watch):
            self._seen.keep(watch)
            self.pending = None

    def take(self, watch: StepWatch) -> Step | None:
        """Take the end of the current step; ``None`` if the row has another class.

        Raises:
            FollowEndedError: There will be no other.
            NotFoundError: The row does not exist, and never did.
            Exception: It cannot be read, or the caller's predicate has failed.
        """
        self.pending = None
        if (error := watch.result.exception()) is not None:
            self._seen.keep(watch)
            self.place.leave()
            self._fail(watch, error)
            return None
        step: Step = watch.result.result()
        is_lost = step.instance is None and self._is_narrowed
        if is_lost or self._is_of_another_class(step.instance):
            self._seen.keep(watch)
            self.request = None
            return None
        self._seen.deliver(step)
        return step

    def _fail(self, watch: StepWatch, error: BaseException) -> None:
        if error is watch.callers_error:
            raise error
        if isinstance(error, WatcherStateError):
            raise FollowEndedError("closed")
        if self._is_narrowed and isinstance(error, NotFoundError | InvalidRequestError):
            self.request = None  # it may exist as another class
        elif isinstance(error, NotFoundError) and (error.deleted or self._seen.is_found):
            raise FollowEndedError("deleted")
        else:
            raise error

    def _is_of_another_class(self, instance: Any) -> bool:
        may_be = instance is not None and self.asked.again is not None and self._rows is not None
        return may_be and self._rows is not None and type(instance) is not self._rows.model


def _is_last(watch: StepWatch) -> bool:
    if watch.result.exception() is not None:
        return False
    step: Step = watch.result.result()
    return step.is_last
