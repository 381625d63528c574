"""What a watcher is doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowbell._watch.board.phases import Polled
from rowbell._watch.reasons import Reason, explain

if TYPE_CHECKING:
    from datetime import datetime

    from rowbell._watch.board.board import Board
    from rowbell._watch.board.watch import Watch
    from rowbell._watch.notifiers.contract import NotifierStatus
    from rowbell._watch.reading.reader import Reader
    from rowbell._watch.state import StateLog, WatcherState


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherStatistics:
    """What a watcher is doing, at one moment.

    Attributes:
        state: The state.
        since: When the state began.
        reason: Why waits are polled; ``None`` while all can be armed.
        detail: What was observed, and the remedy; empty if there is no reason.
        armed: The number of waits that a notification will wake.
        polled: The number of waits that are polled.
        notifications: The number of notifications that were received and understood.
        ignored: The number of received payloads that are not rowbell's.
        rereads: The rows read again for waits, after their first read.
        queries: The number of SELECT statements of all reads.
        failed_reads: The reads that failed for a reason that passes, and were repeated.
        reconnects: How often LISTENING was reached again after a loss.
        queue_usage: How much of the server's notification queue was used at the last heartbeat: 1
            is all of it. ``None`` while the watcher does not listen.
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
    queue_usage: float | None


def statistics_of(
    board: Board, reader: Reader, notifier: NotifierStatus, state: StateLog
) -> WatcherStatistics:
    """The statistics of these parts of one watcher, now."""
    armed, reason, detail = board.arming.armed, state.reason, state.detail
    if reason is None and armed < len(board.watches):
        # A copy, because telemetry asks in another thread.
        reasons = (_reason_of(watch) for watch in tuple(board.watches))
        reason, detail = next(filter(None, reasons), (None, ""))
    return WatcherStatistics(
        state=state.state,
        since=state.since,
        reason=reason,
        detail=detail,
        armed=armed,
        polled=len(board.watches) - armed,
        notifications=notifier.notifications,
        ignored=notifier.ignored,
        rereads=reader.rereads,
        queries=reader.queries,
        failed_reads=reader.failed_reads,
        reconnects=state.reconnects,
        queue_usage=notifier.queue_usage,
    )


def _reason_of(watch: Watch) -> tuple[Reason, str] | None:
    """Why a watch is polled, if the reason concerns only this watch, and the remedy."""
    if not isinstance(watch.phase, Polled) or watch.phase.reason is None:
        return None
    reason = watch.phase.reason
    return reason, explain(reason, f"model {watch.request.rows.model.__name__}")
