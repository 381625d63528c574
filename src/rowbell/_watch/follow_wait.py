"""A wait for a row that may not exist and may be of any subclass, which is not known before."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rowbell._watch.follow import Follow
from rowbell.errors import WaitTimeoutError, WatcherStateError

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.entrance import Entrance
    from rowbell._watch.request import WaitRequest


async def waited_by_following(
    board: Board, entrance: Entrance, request: WaitRequest, deadline: float
) -> tuple[Any, bool]:
    """Follow the row until the wait has what it waits for.

    Returns:
        The row, and whether a notification caused its read.

    Raises:
        WaitTimeoutError: The deadline has passed.
        WatcherStateError: The watcher was closed.
    """
    if request.until is not None:
        request = replace(request, since=None)  # the condition decides, not what has changed
    follow: Follow[Any] = Follow(request, board, entrance)
    state = None
    limit = asyncio.timeout_at(None if deadline == math.inf else deadline)
    try:
        async with limit:
            async for state in follow:
                if request.until is None:
                    return state, follow.was_notified
    except TimeoutError:
        if not limit.expired():
            raise
        key = request.rows.describe(request.key)
        raise WaitTimeoutError(
            request.rows.model, key, timeout=request.timeout or 0.0, served="followed"
        ) from None
    finally:
        await follow.aclose()
    if follow.ended == "until":
        return state, follow.was_notified
    raise WatcherStateError("the watcher was closed during the wait")
