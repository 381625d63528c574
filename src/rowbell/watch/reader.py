"""Reads the rows that want reading, many in one SELECT, and tells each watch what it saw.

It does not know why a row wants reading: rung, due, to be proven or for the last time. A class
has one read under way at a time; what becomes due meanwhile goes into the next.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import anyio
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rowbell.watch.batch import finish, grouped, loads_at_once, read, sliced
from rowbell.watch.watch import Arming, Reading, Turn, Watch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from sqlalchemy import Connection

    from rowbell.watch.board import Board
    from rowbell.watch.connection import Connections
    from rowbell.watch.rows import MappedRows

BATCH: Final = 5_000
"""The most rows of one SELECT: enough to be few, not so many as to hold the event loop up."""

_SERVER_GOES: Final = ("57P", "08", "53300")  # shut down, starting up, connection lost or refused


class Reader:
    """The task that reads for a board.

    Args:
        board: Whose watches are read for.
        connections: Where reads get their connections.
    """

    def __init__(self, board: Board, connections: Connections) -> None:
        self._board = board
        self._connections = connections
        self._waiting: dict[MappedRows, list[Watch]] = {}
        self._stopping = False
        self.rereads = 0
        self.queries = 0

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
            while self._waiting[rows]:
                watches, self._waiting[rows] = self._waiting[rows], []
                for group in grouped(watches, _together):
                    for start in range(0, len(group), BATCH):
                        await self._answer(rows, group[start : start + BATCH])
        finally:
            del self._waiting[rows]

    async def _answer(self, rows: MappedRows, watches: Sequence[Watch]) -> None:
        begun = asyncio.get_running_loop().time()
        trouble = ""
        try:
            await self._connections.run(self._read, rows, watches)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the waits' answer
            if not is_passing(error):
                if len(watches) > 1:  # one of them may be to blame: ask for fewer at a time
                    half = len(watches) // 2
                    await self._answer(rows, watches[:half])
                    await self._answer(rows, watches[half:])
                    return
                watches[0].fail(error)
            trouble = f"the last read failed: {error}"
            for watch in watches:
                if not watch.found:
                    watch.fail(error)
        for some in sliced(watches):
            self._board.answered(some, begun, trouble)
            if len(watches) > len(some):
                await asyncio.sleep(0)

    def _read(self, connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> None:
        board = self._board
        # The bell rang for an armed watch: no proof is wanted, and the row has probably changed.
        rung = all(watch.turn is Turn.READING_RUNG for watch in watches)
        evidence = board.hearing and watches[0].hindrance is None and not rung
        instances = rung and all(map(loads_at_once, watches))
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


def is_passing(error: BaseException) -> bool:
    """Whether an error says that the server could not be reached, so that a later read may."""
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", None) or "")
        # asyncpg reports a value that it cannot bind as an interface error too.
        unbindable = isinstance(getattr(error.orig, "__cause__", None), ValueError | TypeError)
        unreachable = isinstance(error, InterfaceError | OperationalError) and not unbindable
        return (
            error.connection_invalidated
            or state.startswith(_SERVER_GOES)
            or (unreachable and not state)
        )
    return isinstance(error, OSError | TimeoutError | PoolTimeoutError)


def _together(watch: Watch) -> Hashable:
    """What watches must share to be read by one SELECT."""
    rung = watch.turn is Turn.READING_RUNG
    return watch.hindrance, watch.condition_key, rung, rung and loads_at_once(watch)
