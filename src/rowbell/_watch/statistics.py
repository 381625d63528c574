"""What a watcher is doing, at one moment, and which waits cannot be armed for what reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowbell._watch.board.watch import Arming
from rowbell._watch.state import Reason, StateLog, WatcherState, explain

if TYPE_CHECKING:
    from datetime import datetime

    from rowbell._watch.board.board import Board
    from rowbell._watch.board.watch import Watch
    from rowbell._watch.notifiers.listener import Listener
    from rowbell._watch.reading.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherStatistics:
    """What a watcher is doing, at one moment.

    Attributes:
        state: The state.
        since: When the state began.
        reason: Why waits are polled, ``None`` while all can be armed.
        detail: What was seen, and the remedy; empty where there is no reason.
        armed: The number of waits that a notification will wake.
        polled: The number of waits that are polled.
        notifications: The notifications heard and understood.
        ignored: The notifications heard that were none of ours.
        rereads: The rows read again for waits, after their first read.
        queries: The SELECT statements that all reads took.
        failed_reads: The reads that failed for a reason that passes, and were repeated.
        reconnects: How often LISTENING was reached again after a loss.
    """

    state: WatcherState
    since: datetime
    reason: Reason | None
    detail: str
    armed: int
    polled: int
    notifications: int
    ignored: int
    rereads: int
    queries: int
    failed_reads: int
    reconnects: int


def statistics_of(
    board: Board, reader: Reader, listener: Listener, state: StateLog
) -> WatcherStatistics:
    """What these parts of one watcher are doing now."""
    armed = sum(watch.arming is Arming.ARMED for watch in board.watches)
    reason, detail = state.reason, state.detail
    if reason is None:
        troubles = (trouble_of(board, watch) for watch in board.watches)
        reason, detail = next(filter(None, troubles), (None, ""))
    return WatcherStatistics(
        state=state.state,
        since=state.since,
        reason=reason,
        detail=detail,
        armed=armed,
        polled=len(board.watches) - armed,
        notifications=listener.notifications,
        ignored=listener.ignored,
        rereads=reader.rereads,
        queries=reader.queries,
        failed_reads=reader.failed_reads,
        reconnects=state.reconnects,
    )


def trouble_of(board: Board, watch: Watch) -> tuple[Reason, str] | None:
    """Why a watch cannot be armed though the listener hears, if that is so."""
    refused = Reason.TOO_MANY_REGISTRATIONS if board.is_refused(watch) else None
    if not board.troubles and watch.hindrance is None and refused is None:
        return None
    reasons = [board.troubles.get(relation) for relation, _ in watch.names]
    reason = next(filter(None, reasons), watch.hindrance or refused)
    if reason is None:
        return None
    return reason, explain(reason, f"model {watch.rows.model.__name__}")
