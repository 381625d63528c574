"""The reader task: reads what the board has scheduled, many rows in one SELECT.

Each class has only one SELECT at a time. What becomes due meanwhile goes into the next one.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import anyio

from rowbell._cancellation import own_cancellations
from rowbell._watch.board.observation import Reading
from rowbell._watch.board.schedule import ScheduledRead, Why
from rowbell._watch.reading.batch import grouped, loads_at_once, read, sliced
from rowbell._watch.reading.blame import Asked, Verdict, verdict_on
from rowbell._watch.reading.endings import finish, one_snapshot
from rowbell._watch.reading.failing_reads import FailingReads

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from sqlalchemy import Connection

    from rowbell._watch.board.board import Board
    from rowbell._watch.board.watch import Watch
    from rowbell._watch.connections import Connections
    from rowbell._watch.rows.mapped_rows import MappedRows
    from rowbell._watch.state import StateLog

BATCH: Final = 5_000
"""The maximum number of rows of one SELECT: large enough for few SELECTs, small enough for the
event loop."""


class Reader:
    """The task that reads for a board.

    Args:
        board: The board that schedules the reads.
        wake: Makes ``run`` check the schedule again; the board sets it too.
        connections: The connections that reads use.
        state: The log for failing reads.

    Attributes:
        rereads: The rows read again for waits, after their first read.
        queries: The number of SELECT statements of all reads.
        failed_reads: The number of reads that failed for a reason that passes.
    """

    def __init__(
        self, board: Board, wake: asyncio.Event, connections: Connections, state: StateLog
    ) -> None:
        self._board = board
        self._wake = wake
        self._connections = connections
        self._state = state
        self._failing = FailingReads(lambda: asyncio.get_running_loop().time(), state.note)
        self._waiting: dict[MappedRows, list[ScheduledRead]] = {}
        self._is_stopping = False
        self.rereads: int = 0
        self.queries: int = 0
        self.failed_reads: int = 0

    def stop(self) -> None:
        """End ``run`` when the current reads have ended."""
        self._is_stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Read what is due, until stopped."""
        async with anyio.create_task_group() as reads:
            while not self._is_stopping:
                self._wake.clear()
                for scheduled in self._board.take_due():
                    rows = scheduled.watch.request.rows
                    waiting = self._waiting.get(rows)
                    if waiting is None:
                        self._waiting[rows] = [scheduled]
                        reads.start_soon(self._serve, rows)
                    else:
                        waiting.append(scheduled)
                await self._pause(self._board.schedule.next_due())

    async def _pause(self, until: float) -> None:
        """Wait until that time of the event loop, or until woken."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at(until, self._wake.set) if until < math.inf else None
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _serve(self, rows: MappedRows) -> None:
        """Read rows of one class until no more are due."""
        try:
            with own_cancellations():
                while self._waiting[rows]:
                    reads, self._waiting[rows] = self._waiting[rows], []
                    for group in grouped(reads, _together):
                        for start in range(0, len(group), BATCH):
                            await self._answer(rows, group[start : start + BATCH])
        finally:
            del self._waiting[rows]

    async def _answer(self, rows: MappedRows, reads: Sequence[ScheduledRead]) -> None:
        """Read these rows with one SELECT, and return the reads to the board."""
        begun = asyncio.get_running_loop().time()
        query, verdict = (rows, reads[0].watch.request.condition_key), Verdict()
        try:
            await self._connections.run(self._read, rows, reads)
        except Exception as error:  # noqa: BLE001  # any error is passed to the waits
            verdict = await self._verdict_on(error, rows, reads)
        if verdict.problem:
            self.failed_reads += 1
            self._failing.failed(query, verdict.problem)
        else:
            self._failing.succeeded(query)
        left, unread = set(verdict.left), set(verdict.unread)
        self._waiting[rows] += [one for one in reads if one.watch in left]
        done = [one for one in reads if one.watch not in left and one.watch not in unread]
        failed = [one for one in reads if one.watch in unread]
        for some, problem in ((done, ""), (failed, verdict.problem)):
            for slice_ in sliced(some):
                self._board.answered(slice_, begun, problem)
                if len(some) > len(slice_):
                    await asyncio.sleep(0)

    async def _verdict_on(
        self, error: Exception, rows: MappedRows, reads: Sequence[ScheduledRead]
    ) -> Verdict:
        """Find out which waits a failed SELECT ends."""
        watches, asked = [one.watch for one in reads], self._asked(reads)
        repeated = self._failing.times((rows, watches[0].request.condition_key)) > 0
        verdict = await verdict_on(
            error, rows, watches, asked, self._connections, repeated=repeated
        )
        self.queries += verdict.queries
        if verdict.never_armed is not None:
            rows.never_provable = verdict.never_armed
            self._board.arming.cannot_prove(watches, verdict.never_armed)
            self._state.warn(verdict.never_armed, f"model {rows.model.__name__}")
        return verdict

    def _asked(self, reads: Sequence[ScheduledRead]) -> Asked:
        """What a SELECT for these reads returns in addition to the values."""
        # Notified while armed: no proof is needed, and the row has probably changed.
        notified = all(one.why is Why.NOTIFIED for one in reads)
        may_be_armed = self._board.arming.is_connected and reads[0].watch.never_armed is None
        at_once = all(_loads_at_once(one) for one in reads)
        return Asked(evidence=may_be_armed and not notified, instances=at_once)

    def _read(
        self, connection: Connection, rows: MappedRows, reads: Sequence[ScheduledRead]
    ) -> None:
        """Read on a connection; it may be called again on another one."""
        asked, by_watch = self._asked(reads), {one.watch: one for one in reads}
        self.rereads += sum(watch.observation.is_found for watch in by_watch)
        # What fulfils a condition must be what is returned.
        consistent = not asked.instances and any(
            one.watch.needs_one_snapshot and one.watch.request.condition is not None
            for one in reads
        )
        # Before the SELECT: its snapshot proves nothing for a later boundary.
        self._board.begin(reads)
        with one_snapshot(connection, rows) if consistent else nullcontext():
            absent = self._take_in(connection, rows, by_watch, asked, in_one_snapshot=consistent)
        if absent:
            self._take_in(connection, rows, absent, asked, in_one_snapshot=False)

    def _take_in(
        self,
        connection: Connection,
        rows: MappedRows,
        reads: dict[Watch, ScheduledRead],
        asked: Asked,
        *,
        in_one_snapshot: bool,
    ) -> dict[Watch, ScheduledRead]:
        """Read, and process what was found. Return the reads whose row must be looked for again.

        A snapshot that was taken before a lock was granted does not have the rows of the table that
        took the name of the old one meanwhile. So it does not prove that a row is absent.
        """
        self.queries += 1
        ended: list[tuple[Watch, Reading]] = []
        absent: dict[Watch, ScheduledRead] = {}
        for watch, reading in read(
            connection, rows, list(reads), evidence=asked.evidence, instances=asked.instances
        ):
            if in_one_snapshot and not isinstance(reading, Reading):
                absent[watch] = reads[watch]
            elif watch.is_over or not self._board.take_in(reads[watch], reading):
                continue
            elif isinstance(reading, Reading):
                ended.append((watch, reading))
        self.queries += finish(connection, rows, ended, in_one_snapshot=in_one_snapshot)
        return absent


def _together(read: ScheduledRead) -> Hashable:
    """The key that reads in one SELECT must share."""
    watch, notified = read.watch, read.why is Why.NOTIFIED
    return watch.never_armed, watch.request.condition_key, notified, _loads_at_once(read)


def _loads_at_once(read: ScheduledRead) -> bool:
    """Whether the instance is loaded with the values: it will probably be wanted."""
    will_end = read.why is Why.NOTIFIED or read.watch.expects_news
    return will_end and loads_at_once(read.watch)
