"""The subscription task: connects the board with a notifier, and keeps it connected.

It registers the rows that the board wants, checks the session at intervals, and passes what it
finds to the board. A lost session is not revived: all watches are polled at once, and after a pause
a new session begins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio

from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.notification import Merged, Notification
from rowbell._watch.reasons import FOR_GOOD, Reason
from rowbell._watch.state import StateLog, WatcherState
from rowbell._watch.timing import Backoff

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.notifiers.contract import Notifier, NotifierSession, Report, Tables
    from rowbell._watch.timing import Timing

_EARLIEST: Final = 0.1
"""The shortest time between two checks, as a fraction of the time between two heartbeats."""


class Subscription:
    """The task that subscribes a board to a notifier.

    Args:
        board: The board that is notified.
        wake: Makes ``run`` check what there is to do; the board sets it too.
        notifier: The notifier.
        state: The log that it reports its state to.
        timing: The watcher's times.
    """

    def __init__(
        self,
        board: Board,
        wake: asyncio.Event,
        notifier: Notifier,
        state: StateLog,
        timing: Timing,
    ) -> None:
        self._board = board
        self._wake = wake
        self._notifier = notifier
        self._state = state
        self._timing = timing
        self._is_stopping = False
        self._may_have_gap = False
        self._received = Merged()

    def stop(self) -> None:
        """End ``run`` when the current work has ended."""
        self._is_stopping = True
        self._wake.set()

    # -- what the notifier calls

    def on_notification(self, notification: Notification) -> None:
        """Pass it to the board, together with all that arrive in the same turn of the event loop.

        Any role may send thousands of notifications with the same meaning.
        """
        if not self._received:
            asyncio.get_running_loop().call_soon(self._notify_board)
        self._received.add(notification)

    def _notify_board(self) -> None:
        received, self._received = self._received, Merged()
        for one in received:
            self._board.notified(one.table_oid, one.keys)

    def on_gap(self) -> None:
        """Have the session checked soon."""
        self._may_have_gap = True
        self._wake.set()

    # -- the task

    async def run(self) -> None:
        """Keep a session until stopped. After a loss, begin another, unless that cannot help."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._timing, limit=self._notifier.longest_pause)
        self._state.enter(WatcherState.CONNECTING)
        while not self._is_stopping:
            begun = loop.time()
            reason, detail = await self._keep_session()
            self._disconnected(reason, detail)
            if reason in FOR_GOOD:
                return
            await self._pause(loop.time() + backoff.delay(healthy_for=loop.time() - begun))

    def _disconnected(self, reason: Reason, detail: str) -> None:
        self._board.disconnected(self._notifier.polling)
        if not self._is_stopping:
            self._state.enter(WatcherState.POLLING, reason, detail)

    async def _pause(self, until: float) -> None:
        """Wait before the next attempt; only ``stop`` ends this early."""
        loop = asyncio.get_running_loop()
        while not self._is_stopping and loop.time() < until:
            self._wake.clear()
            with anyio.move_on_after(until - loop.time()):
                await self._wake.wait()

    async def _keep_session(self) -> tuple[Reason, str]:
        """Run one session; return why it has ended."""
        try:
            async with self._notifier.session(self) as session:
                self._may_have_gap = False
                self._board.connected(session.server)
                self._state.enter(WatcherState.LISTENING)
                await self._serve(session)
                await session.end()
        except CannotNotifyError as error:
            return error.reason, error.detail
        return Reason.CONNECTION_LOST, "closed"

    async def _serve(self, session: NotifierSession) -> None:
        """Register, check and look for writers, until stopped."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        next_look = loop.time() + self._timing.narrow
        while not self._is_stopping:
            self._wake.clear()
            self._refuse_lost(session)
            await self._register(session)
            if spent := self._board.arming.registrations.take_spent():
                await session.unregister(spent)
            # Any role may announce a change of triggers, so not every announcement is checked.
            pause = self._timing.heartbeat * (_EARLIEST if self._may_have_gap else 1)
            if loop.time() >= checked + pause:
                await self._check(session)
                checked, pause = loop.time(), self._timing.heartbeat
            if loop.time() >= next_look:
                await self._look_for_writers(session)
                next_look = loop.time() + self._timing.narrow
            until = checked + pause
            if self._board.arming.proving() is not None:
                until = min(until, next_look)
            with anyio.move_on_after(max(until - loop.time(), 0)):
                await self._wake.wait()

    def _refuse_lost(self, session: NotifierSession) -> None:
        if (loss := session.loss) is not None:
            raise loss
        if self._board.arming.is_server_in_doubt:
            why = "another server than the one that notifies answers the reads"
            raise CannotNotifyError(Reason.NOT_DELIVERED, why)

    async def _register(self, session: NotifierSession) -> None:
        """Register the wanted rows."""
        arming = self._board.arming
        batch = arming.registrations.take_wanted()
        if not batch:
            return
        rows = [(registration.row_id, columns) for registration, columns in batch]
        answer = await session.register(rows, self._tables())
        self._take_in(answer.report)
        if answer.boundary is None:
            arming.refused([registration for registration, _ in batch])
            self._state.warn(Reason.TOO_MANY_REGISTRATIONS, f"{len(rows)} more rows")
        else:
            arming.registered(batch, answer.boundary)

    async def _check(self, session: NotifierSession) -> None:
        """Check the session, and unregister rows that no watch has needed for a while."""
        self._may_have_gap = False
        arming = self._board.arming
        self._take_in(await session.check(self._tables()))
        arming.want_refused()
        before = asyncio.get_running_loop().time() - self._timing.linger
        if unused := arming.registrations.take_unused(before):
            await session.unregister(unused)

    def _tables(self) -> Tables:
        """The tables that the session checks: those of registrations, and those with obstacles."""
        return self._board.arming.registrations.tables(self._board.arming.obstacles)

    def _take_in(self, report: Report) -> None:
        """Pass to the board what the session has found."""
        arming = self._board.arming
        reasons = {oid: obstacle.reason for oid, obstacle in report.obstacles.items()}
        for oid, reason in arming.set_obstacles(reasons).items():
            self._state.warn(reason, report.obstacles[oid].table)
        for gap in report.gaps:
            if gap.detail:
                self._state.note(f"{gap.detail}: all waits are proven anew")
            arming.gap(gap.boundary, gap.tables)

    async def _look_for_writers(self, session: NotifierSession) -> None:
        """Query the lock table: have the writers from before the boundary ended?"""
        proving = self._board.arming.proving()
        if proving is not None:
            tables, boundary = proving
            gone = await session.tables_without_writers(tables, boundary)
            self._board.arming.writers_gone(gone, boundary)
