"""A board and watches for unit tests, without an engine and without a server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from rowbell import Timing
from rowbell._watch.board.board import Board
from rowbell._watch.board.table_watch import TableWatch
from rowbell._watch.board.watch import Watch
from rowbell._watch.request import WaitRequest
from rowbell._watch.values.distinct import UNSEEN

SERVER = 1_764_000_000.0
"""The start time of the server that notifies, in seconds."""

TABLE = 16384
"""The oid of the table."""


class Rows:
    """The rows of a class with one table, and one watched column."""

    watched_tables = (SimpleNamespace(inserts=False),)
    model = object
    absent_keys = SimpleNamespace(never_armed=None)

    def forget(self) -> None: ...

    def registered(self, names: tuple[str, ...]) -> tuple[Any]:
        return (None,)

    def describe(self, key: tuple[int, ...]) -> dict[str, object]:
        return {"id": key}

    def differ(
        self, _names: tuple[str, ...], before: tuple[object, ...], after: tuple[object, ...]
    ) -> bool:
        return before not in {after, (UNSEEN,)}


ROWS: Any = Rows()


def a_board(clock: Callable[[], float], **more: Any) -> Board:
    def nothing() -> None: ...

    given: dict[str, Any] = {"recheck": 30.0, "must_arm": False, "earlier": nothing}
    given |= {"attention": nothing, "changed": nothing}
    return Board(clock, Timing(), **{**given, **more})


def a_table_watch(loop: asyncio.AbstractEventLoop) -> TableWatch:
    """A watch of the whole table."""
    return TableWatch(replace(a_watch(0, loop).request, key=()), math.inf, loop.create_future())


def a_watch(
    row: int,
    loop: asyncio.AbstractEventLoop,
    *,
    interval: float = 60.0,
    deadline: float = math.inf,
    rows: Any = ROWS,
    columns: tuple[str, ...] = ("n",),
    waits_for_missing: bool = False,
) -> Watch:
    request = WaitRequest(
        rows=rows,
        key=(row,),
        columns=columns,
        interval=interval,
        timeout=None,
        until=None,
        condition_key=None,
        since=None,
        options=(),
        waits_for_missing=waits_for_missing,
        is_absent=False,
        again=None,
    )
    return Watch(request, deadline, loop.create_future())
