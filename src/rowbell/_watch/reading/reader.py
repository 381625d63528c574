"""Reads the rows that want reading, many in one SELECT, and tells each watch what it saw.

It does not know why a row wants reading: rung, due, to be proven or for the last time. A class
has one read under way at a time; what becomes due meanwhile goes into the next. Whose fault it is
where one fails is found out in ``failure`` and ``blame``.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Final

import anyio

from rowbell._cancellation import own_cancellations
from rowbell._sqlstate import INSUFFICIENT_PRIVILEGE, UNDEFINED_FUNCTION, sqlstate_of
from rowbell._watch.board.watch import Arming, Reading, Turn, Watch
from rowbell._watch.failures import UnreachableError, is_answered, is_passing, own
from rowbell._watch.reading.batch import finish, grouped, loads_at_once, read, sliced
from rowbell._watch.reading.blame import Blame
from rowbell._watch.reading.failing import Failing
from rowbell._watch.state import Reason, StateLog

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from sqlalchemy import Connection

    from rowbell._watch.board.board import Board
    from rowbell._watch.connections import Connections
    from rowbell._watch.rows.mapped_rows import MappedRows

BATCH: Final = 5_000
"""The most rows of one SELECT: enough to be few, not so many as to hold the event loop up."""

_UNPROVABLE: Final = {
    UNDEFINED_FUNCTION: Reason.NO_HASH,
    INSUFFICIENT_PRIVILEGE: Reason.NOT_PERMITTED,
}
"""Why a row cannot be armed, by what reading the evidence fails with."""


class Reader:
    """The task that reads for a board.

    Args:
        board: Whose watches are read for.
        connections: Where reads get their connections.
        state: Where it says that reads fail.

    Attributes:
        rereads: The rows read again for waits, after their first read.
        queries: The SELECT statements that all reads took.
        failed_reads: The reads that failed for a reason that passes.
        has_hindered: Whether it has found rows that cannot be armed.
    """

    def __init__(self, board: Board, connections: Connections, state: StateLog) -> None:
        self._board = board
        self._connections = connections
        self._state = state
        self._failing = Failing(lambda: asyncio.get_running_loop().time(), state.note)
        self.has_hindered = False
        self._waiting: dict[MappedRows, list[Watch]] = {}
        self._stopping = False
        self.rereads = 0
        self.queries = 0
        self.failed_reads = 0

    def stop(self) -> None:
        """End ``run`` when the reads under way have ended."""
        self._stopping = True
        self._board.schedule.earlier.set()

    async def run(self) -> None:
        """Read what is due, until stopped."""
        loop, schedule = asyncio.get_running_loop(), self._board.schedule
        async with anyio.create_task_group() as reads:
            while not self._stopping:
                schedule.earlier.clear()
                for watch in self._board.take_due():
                    waiting = self._waiting.get(watch.rows)
                    if waiting is None:
                        self._waiting[watch.rows] = [watch]
                        reads.start_soon(self._serve, watch.rows)
                    else:
                        waiting.append(watch)
                due = schedule.next_due()
                timer = loop.call_at(due, schedule.earlier.set) if due < math.inf else None
                try:
                    await schedule.earlier.wait()
                finally:
                    if timer is not None:
                        timer.cancel()

    async def _serve(self, rows: MappedRows) -> None:
        """Read rows of one class until no watch of it is due any more."""
        try:
            with own_cancellations():
                while self._waiting[rows]:
                    watches, self._waiting[rows] = self._waiting[rows], []
                    for group in grouped(watches, _together):
                        for start in range(0, len(group), BATCH):
                            await self._answer(rows, group[start : start + BATCH])
        finally:
            del self._waiting[rows]

    async def _answer(self, rows: MappedRows, watches: Sequence[Watch]) -> None:
        begun = asyncio.get_running_loop().time()
        name, trouble, unread = (rows, watches[0].condition_key), "", list[Watch]()
        try:
            await self._connections.run(self._read, rows, watches)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the waits' answer
            times = self._failing.times(name)
            trouble, unread, left = await self._blame(rows, watches, error, times)
            self._waiting[rows] += left
            others = {*unread, *left}
            watches = [watch for watch in watches if watch not in others]
        if trouble:
            self.failed_reads += 1
            self._failing.failed(name, trouble)
        else:
            self._failing.succeeded(name)
        for some, why in ((watches, ""), (unread, trouble)):
            for slice_ in sliced(some):
                self._board.answered(slice_, begun, why)
                if len(some) > len(slice_):
                    await asyncio.sleep(0)

    async def _blame(
        self, rows: MappedRows, watches: Sequence[Watch], error: Exception, times: int
    ) -> tuple[str, list[Watch], list[Watch]]:
        """End the waits that a failed read is to be blamed on.

        Returns:
            What is wrong for others, those others, and those that are to be read for again at once.
        """
        trouble, everybody = f"the last read failed: {error}", list(watches)
        if isinstance(error, UnreachableError):
            for watch in watches:
                if not watch.found and not error.passes:
                    watch.fail(own(error.reason))  # the others could be read for once
            return trouble, everybody, []
        passes = is_passing(error)
        if passes and not (times and is_answered(error) and len(watches) > 1):
            return trouble, everybody, []
        evidence, instances = self._wants(watches)
        blame = Blame(rows, evidence=evidence, instances=instances)
        try:
            if passes:
                random.shuffle(everybody)  # so that time is short for others each time
                await self._connections.run_apart(blame.read_what_can_be_read, everybody)
                unread = [*blame.unread, *blame.left]
                return (trouble if unread else ""), unread, []
            try:
                await self._connections.run_apart(blame.find, watches)
            except UnreachableError:
                await self._connections.run_pooled(blame.find, watches)
        except Exception as passing:  # noqa: BLE001  # it has blamed what is to be blamed
            return f"the last read failed: {passing}", everybody, []
        finally:
            self.queries += blame.queries
        if blame.found or blame.left or self._can_do_without(blame, rows, watches):
            return "", [], blame.left
        return trouble, everybody, []

    def _can_do_without(self, blame: Blame, rows: MappedRows, watches: Sequence[Watch]) -> bool:
        """Whether the reads succeed once they do not ask for what they need not have."""
        if blame.unmakeable is not None:
            rows.instances_come_with_values = False
        if blame.unprovable is not None:
            reason = _UNPROVABLE.get(sqlstate_of(blame.unprovable))
            if reason is None:
                return False
            rows.unprovable, self.has_hindered = reason, True
            for watch in watches:
                watch.hindrance = reason
            self._state.warn(reason, f"model {rows.model.__name__}")
        return blame.unmakeable is not None or blame.unprovable is not None

    def _wants(self, watches: Sequence[Watch]) -> tuple[bool, bool]:
        """Whether a read for them asks for evidence, and whether it loads instances as well."""
        # The bell rang for an armed watch: no proof is wanted, and the row has probably changed.
        rung = all(watch.turn is Turn.READING_RUNG for watch in watches)
        evidence = self._board.hearing and watches[0].hindrance is None and not rung
        return evidence, rung and all(map(loads_at_once, watches))

    def _read(self, connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> None:
        board = self._board
        evidence, instances = self._wants(watches)
        boundaries = {w: w.boundary for w in watches if w.arming is Arming.ARMING}
        self.rereads += sum(watch.found for watch in watches)
        self.queries += 1
        ended: list[tuple[Watch, Reading]] = []
        for watch, reading in read(
            connection, rows, watches, evidence=evidence, instances=instances
        ):
            if watch.over:
                continue
            if watch.observe(reading) and reading is not None:
                ended.append((watch, reading))
            elif reading is not None and reading.evidence is not None:
                board.consider(watch, reading.evidence, boundaries.get(watch))
        self.queries += finish(connection, rows, ended)


def _together(watch: Watch) -> Hashable:
    """What watches must share to be read by one SELECT."""
    rung = watch.turn is Turn.READING_RUNG
    return watch.hindrance, watch.condition_key, rung, rung and loads_at_once(watch)
