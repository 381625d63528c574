"""One wait on a board, from its first read to its result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rowbell._watch.board.watch import Watch
from rowbell._watch.last_read import LastRead
from rowbell._watch.observers import take_notice
from rowbell._watch.predicate_timer import PredicateTimer

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.timing import Timing


async def waited(
    board: Board, request: WaitRequest, deadline: float, timing: Timing, *, wants_instance: bool
) -> Any:
    """Wait as requested, until the deadline. Without ``wants_instance`` it may return ``None``."""
    watch = Watch(
        request,
        deadline,
        result=asyncio.get_running_loop().create_future(),
        wants_instance=wants_instance,
        never_armed=request.never_armed,
    )
    last_read = LastRead(watch, timing.last_read)
    predicate = PredicateTimer(watch) if request.predicate else None
    try:
        board.add(watch)
        return await watch.result
    finally:
        last_read.stop()
        if predicate:
            predicate.stop()
        board.discard(watch)
        take_notice(watch.result)
