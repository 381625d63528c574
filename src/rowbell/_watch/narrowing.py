"""A wait's request for the row's own class, which may have more columns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from rowbell._watch.failures import UnreachableError, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.connections import Connections
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.timing import Timing


async def narrowed(
    request: WaitRequest,
    connections: Connections,
    begun: float,
    timing: Timing,
    check_open: Callable[[], None],
) -> WaitRequest:
    """The request for the row's own class; the same request if the deadline is too near.

    Args:
        request: The request, for a class that may have subclasses.
        connections: The connections for the query.
        begun: When the wait began, on the event loop's clock.
        timing: The watcher's times.
        check_open: Raises if the watcher was closed meanwhile.

    Raises:
        Exception: The query failed, for a reason that does not pass.
    """
    if request.again is None or request.rows.subclass(request.key) is None:
        return request
    loop = asyncio.get_running_loop()
    pause = min(request.interval, timing.first_read)
    while True:
        try:
            request = await connections.run(request.narrowed)
        except UnreachableError as error:
            if not error.passes:
                raise error.reason from None
        except Exception as error:
            if not is_passing(error):
                raise
        else:
            check_open()
            return request
        check_open()
        if loop.time() + pause >= request.deadline(begun):
            return request
        await anyio.sleep(pause)
