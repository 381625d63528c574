"""A wait that polls on the connection that the session holds or is bound to."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from rowbell._cancellation import finished
from rowbell._sqlstate import IN_FAILED_TRANSACTION, has_sqlstate
from rowbell._watch.board.observation import Reading
from rowbell._watch.board.watch import Watch
from rowbell._watch.caller.savepoint import in_savepoint
from rowbell._watch.reading.batch import read
from rowbell._watch.reading.endings import finish
from rowbell._watch.reasons import Reason
from rowbell._watch.state import warn_once

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rowbell._watch.request import WaitRequest


async def wait_on_connection(
    session: AsyncSession, held: Connection, request: WaitRequest, differs: str
) -> Any:
    """Wait on the connection that the session is bound to or holds, inside its transaction.

    Other connections do not see what is written in that transaction, so the row is polled.
    """
    if differs:
        warn_once(
            held.engine,
            Reason.OWN_CONNECTION,
            f"a session waits for {request.rows.model.__name__} on its own connection: {differs}",
        )
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connection = session.bind
    if not isinstance(connection, AsyncConnection) or connection.sync_connection is not held:
        connection = AsyncConnection(AsyncEngine(held.engine), held)
    if request.again is not None and request.rows.has_subclasses:
        request = await finished(connection.run_sync(_narrowed, request))
    watch = Watch(
        request,
        request.deadline(begun),
        result=loop.create_future(),
    )
    failed_since = math.inf
    while True:
        started = loop.time()
        try:
            await finished(connection.run_sync(_look, watch))
            failed_since = math.inf
        except DBAPIError as error:
            # A statement of the caller has failed. The caller will roll back.
            failed_since = min(failed_since, started)
            if not has_sqlstate(error, IN_FAILED_TRANSACTION) or started > failed_since + _UNDO:
                raise
        if not watch.is_over and started >= watch.deadline:
            watch.time_out("on the session's own connection")
        if watch.is_over:
            return await watch.result
        await anyio.sleep(max(0.0, min(request.interval, watch.deadline - loop.time())))


_UNDO: Final = 1.0
"""How long, in seconds, other users of the connection may take to roll back a failed statement."""


def _narrowed(connection: Connection, request: WaitRequest) -> WaitRequest:
    with in_savepoint(connection) if request.rows.on_postgresql else nullcontext():
        [narrowed] = request.narrowed(connection, [request])
        return narrowed


def _look(connection: Connection, watch: Watch) -> None:
    with in_savepoint(connection) if watch.request.rows.on_postgresql else nullcontext():
        [(_, reading)] = read(connection, watch.request.rows, [watch], evidence=False)
        if watch.observe(reading) and isinstance(reading, Reading):
            finish(connection, watch.request.rows, [(watch, reading)])
        else:
            watch.ask_again()
