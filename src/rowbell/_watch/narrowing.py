"""The requests for rows' own classes, which may have more columns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from rowbell._watch.failures import UnreachableError, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowbell._watch.connections import Connections
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.timing import Timing


async def narrowed(
    requests: Sequence[WaitRequest],
    connections: Connections,
    timing: Timing,
    check_open: Callable[[], None],
) -> list[WaitRequest]:
    """The requests for the rows' own classes; the same requests if the deadline is too near.

    Args:
        requests: Requests for one class, which may have subclasses.
        connections: The connections for the query.
        timing: The watcher's times.
        check_open: Raises if the watcher was closed meanwhile.

    Raises:
        Exception: The query failed, for a reason that does not pass.
    """
    first = requests[0]
    if first.again is None or not first.rows.has_subclasses:
        return list(requests)
    loop = asyncio.get_running_loop()
    begun, pause = loop.time(), min(first.interval, timing.first_read)
    while True:
        try:
            found = await connections.run(first.narrowed, requests)
        except UnreachableError as error:
            if not error.passes:
                raise error.reason from None
        except Exception as error:
            if not is_passing(error):
                raise
        else:
            check_open()
            return found
        check_open()
        if loop.time() + pause >= first.deadline(begun):
            return list(requests)
        await anyio.sleep(pause)
