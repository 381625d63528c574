"""Server-sent events: what a source tells, for FastAPI's ``EventSourceResponse``."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Self

import anyio
from fastapi import HTTPException, Request
from fastapi.sse import ServerSentEvent
from pydantic_core import to_json
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rowbell._watch.failures import is_passing
from rowbell._watch.state import logger
from rowbell._watch.timing import seconds_of
from rowbell.errors import NotFoundError
from rowbell.fastapi.connected import ends
from rowbell.fastapi.racing import End, unless
from rowbell.fastapi.reconnection import life, seconds
from rowbell.fastapi.told import Check, Load, Source, Told, told_of
from rowbell.fastapi.watchers import closing

FIRST_WITHIN: Final = 5.0
"""How long the response waits for the first state, in seconds. Then it begins without. The
application's check and load have no limit."""


class StreamEnd(StrEnum):
    """The reason in a stream's last event. A browser connects again after each."""

    UNTIL = "until"
    """The condition holds. The next connection gets 204, and the browser stops."""
    DELETED = "deleted"
    """The row was deleted. The next connection gets 404, and the browser stops."""
    REFUSED = "refused"
    """The check does not allow it any more. The next connection gets 403, and so on."""
    MAX_AGE = "max_age"
    """The stream is old. The next connection authorizes again."""
    CLOSED = "closed"
    """The process is to end. The next connection reaches another one."""


_COMES_BACK: Final = frozenset({StreamEnd.MAX_AGE, StreamEnd.CLOSED})
_BY_SOURCE: Final = {"until": StreamEnd.UNTIL, "deleted": StreamEnd.DELETED}


class EventStream(AsyncIterator[ServerSentEvent]):
    """The events for one client. ``event_stream()`` returns it; an endpoint yields them."""

    def __init__(self, told: Told, max_age: float, ends: list[End]) -> None:
        self._told = told
        self._ends = ends
        self._deadline = asyncio.get_running_loop().time() + max_age
        self._first: deque[ServerSentEvent] = deque()
        self._item: list[Any] = []  # what was taken from the source last, until it is told
        self._has_ended = False

    async def begin(self, last_event_id: str | None) -> None:
        """Load and check the first states.

        Raises:
            HTTPException: There is nothing to stream.
            NotFoundError: The row does not exist.
            InvalidArgumentError: The model cannot be made from it.
        """
        limit = asyncio.get_running_loop().time() + FIRST_WITHIN
        for _ in range(self._told.first):
            with anyio.CancelScope(deadline=limit):
                await self._take()
            if not self._item:
                break
            try:
                if (event := await self._event()) is not None:
                    self._first.append(event)
            except (DBAPIError, PoolTimeoutError) as error:
                if is_passing(error):
                    raise closing() from error
                raise
        if self._told.source.ended == "closed":
            raise closing()
        if self._told.tag is not None and self._told.tag == last_event_id:
            self._first.clear()
        if self._told.is_final and not self._first:
            raise HTTPException(HTTPStatus.NO_CONTENT)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """The next event. The last one is named ``end``. A cancelled iteration ends the stream.

        Raises:
            StopAsyncIteration: It has ended.
            DBAPIError: The row cannot be read, for a reason that does not pass.
        """
        if self._first:
            return self._first.popleft()
        if self._has_ended:
            raise StopAsyncIteration
        try:
            event = await self._news()
        except BaseException:
            self.close()  # the client has left, or an error ends the stream
            raise
        return self._end(event) if isinstance(event, StreamEnd) else event

    async def _news(self) -> ServerSentEvent | StreamEnd:
        """The next event, or why there is none."""
        with anyio.CancelScope(deadline=self._deadline):
            try:
                while True:
                    if not self._item:
                        await self._take()
                    if not self._item:
                        return _BY_SOURCE.get(self._told.source.ended, StreamEnd.CLOSED)
                    if (event := await self._repeated_event()) is not None:
                        return event
            except NotFoundError:
                return StreamEnd.DELETED
            except HTTPException as error:
                is_closing = error.status_code == HTTPStatus.SERVICE_UNAVAILABLE
                return StreamEnd.CLOSED if is_closing else StreamEnd.REFUSED
        return StreamEnd.MAX_AGE

    async def _take(self) -> None:
        """Take the next item of the source, if there is one."""
        with suppress(StopAsyncIteration):
            self._item.append(await anext(self._told.source))

    async def _event(self) -> ServerSentEvent | None:
        """The event of the item, if it is one."""
        event = self._told.event(self._item[0])
        told = await (unless(event, self._ends) if self._told.may_wait else event)
        self._item.clear()
        return told

    async def _repeated_event(self) -> ServerSentEvent | None:
        """The same, repeated after errors of the database that pass: a load is ours to repeat."""
        is_logged = False
        while True:
            try:
                return await self._event()
            except (DBAPIError, PoolTimeoutError) as error:
                if not is_passing(error):
                    raise
                if not is_logged:
                    logger.warning("rowbell: a stream cannot load its state yet: %s", error)
                is_logged = True
                await unless(anyio.sleep(seconds()), self._ends)

    def _end(self, why: StreamEnd) -> ServerSentEvent:
        self.close()
        retry = round(1000 * seconds()) if why in _COMES_BACK else None
        data = to_json({"reason": why.value}).decode()
        return ServerSentEvent(event="end", raw_data=data, retry=retry)

    def close(self) -> None:
        """End it without a last event."""
        self._has_ended = True
        self._told.source.close()


async def event_stream(
    request: Request,
    source: Source,
    model: Any = None,
    *,
    check: Check | None = None,
    load: Load | None = None,
    max_age: float | timedelta | None = 3600.0,
) -> EventStream:
    """Begin to stream a row, many rows, or a list, in a dependency of the endpoint.

    The first state is loaded, checked and validated here, before the response begins: in the
    endpoint's generator, each error would be an empty stream with status 200. Nothing that the
    model does not list leaves. ``id:`` is a hash of what was sent. A client that comes back with
    that ``Last-Event-ID`` gets the current state only if it differs; what was in between is not
    sent. A watcher reads with the engine's role and settings: what a session has set (a tenant, a
    role) does not hold here.

    Args:
        request: The request.
        source: What ``watcher.follow()``, ``follow_many()`` or ``changes()`` has returned. It
            should have no ``since``.
        model: A pydantic model, or another type for pydantic, of what is sent. Without it,
            ``changes()`` only tells the client to load its list again (``event: resync``).
        check: Whether the client may see a state, ``True`` or ``False``: a function or a coroutine
            function of the instance, or of what was loaded. It is called for each state.
        load: With ``changes()``: a coroutine function that loads the list, in a session of its own.
        max_age: How long the stream lives at most, in seconds or as a ``timedelta``; up to a tenth
            less. Then the client comes back, and is authorized again. ``None`` for no limit.

    Returns:
        An asynchronous iterator of FastAPI's ``ServerSentEvent``. One of many rows that does not
        exist is ``event: gone``; the last event is ``event: end`` with the reason (``StreamEnd``).

    Raises:
        HTTPException: 404: the row does not exist. 403: ``check`` does not allow it. 204: the
            client has seen the last state. 503: the process is to end, or the list cannot be
            loaded, for a reason that passes.
        InvalidArgumentError: An argument is invalid, or the model cannot be made from the row.
        WatcherStateError, ListenError, DBAPIError: As from the source.

    Example:
        .. code-block:: python

            async def stream(order_id: int, request: Request, watcher: WatcherDep) -> EventStream:
                return await event_stream(request, watcher.follow(Order, order_id), OrderOut)


            @app.get("/orders/{order_id}/events", response_class=EventSourceResponse)
            async def events(
                stream: Annotated[EventStream, Depends(stream)],
            ) -> AsyncIterator[ServerSentEvent]:
                async for event in stream:
                    yield event
    """
    longest = math.inf if max_age is None else life(seconds_of("max_age", max_age))
    stream = EventStream(told_of(source, model, check, load), longest, ends(request))
    # A response that is cut while it sends is held by a cycle of exceptions until the garbage
    # collector runs. This is the exit stack that FastAPI closes after a response.
    if (stack := request.scope.get("fastapi_inner_astack")) is not None:
        stack.callback(stream.close)
    try:
        await stream.begin(request.headers.get("last-event-id"))
    except NotFoundError as error:
        stream.close()
        raise HTTPException(HTTPStatus.NOT_FOUND) from error
    except BaseException:
        stream.close()
        raise
    return stream
