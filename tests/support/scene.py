"""One wait on a board, step by step, with a simulated clock and server."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from rowbell import Reason
from rowbell._watch.board.observation import Reading
from rowbell._watch.board.phases import Phase, Polled
from rowbell._watch.board.schedule import ScheduledRead, Why
from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.values.key_hash import RowId
from support.boards import ROWS, SERVER, TABLE, a_board, a_watch

ROW: Final = RowId(TABLE, 7)
"""The row id of its row."""


class Scene:
    """One watch for one row, and its reads, step by step."""

    def __init__(self, rows: Any = ROWS, **more: Any) -> None:
        self.now = 1_000.0
        self.board = a_board(lambda: self.now, **more)
        self.arming = self.board.arming
        self.board.connected(SERVER)
        self.watch = a_watch(7, asyncio.get_running_loop(), rows=rows)
        self.board.add(self.watch)

    def begin(self) -> ScheduledRead:
        """Begin a read: it takes its snapshot."""
        [read] = self.board.take_due()
        self.board.begin([read])
        return read

    def end(
        self, read: ScheduledRead, value: object, xmin: int, server: float | None = SERVER
    ) -> None:
        """End a read: the board receives its result."""
        evidence = None if read.why is Why.NOTIFIED else Evidence((ROW,), xmin, server)
        if self.board.take_in(read, Reading((value,), evidence=evidence)):
            self.watch.finish(None)
        self.board.answered([read], self.now)

    def read(self, value: object, xmin: int, server: float | None = SERVER) -> None:
        self.end(self.begin(), value, xmin, server)

    def begin_next_wait(self) -> None:
        """The wait ends, and another one for the same row begins."""
        self.board.discard(self.watch)
        self.watch = a_watch(7, asyncio.get_running_loop())
        self.board.add(self.watch)

    def register(self, boundary: int) -> None:
        batch = self.arming.registrations.take_wanted()
        assert [registration.row_id for registration, _ in batch] == [ROW]
        self.arming.registered(batch, boundary)

    def is_in(self, phase: type[Phase]) -> bool:
        return isinstance(self.watch.phase, phase)

    @property
    def reason(self) -> Reason | None:
        """The reason why the row is polled."""
        phase = self.watch.phase
        return phase.reason if isinstance(phase, Polled) else None

    @property
    def next_read(self) -> ScheduledRead:
        scheduled = self.board.schedule.of(self.watch)
        assert scheduled is not None
        return scheduled
