"""Long polls: a response for the next state of a row."""

from __future__ import annotations

import re
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

import anyio
from fastapi import HTTPException, Request, Response
from fastapi.sse import ServerSentEvent

from rowbell._watch.follow import Follow
from rowbell._watch.timing import seconds_of
from rowbell.errors import InvalidArgumentError, NotFoundError
from rowbell.fastapi.connected import run_while_connected
from rowbell.fastapi.told import Check, OneRow, told_of
from rowbell.fastapi.watchers import closing

_TAG: Final = re.compile(r'"([^"]*)"')


async def long_poll(
    request: Request,
    source: Follow[Any],
    model: Any,
    *,
    check: Check | None = None,
    timeout: float | timedelta = 25.0,  # noqa: ASYNC109  # the end of the response, not of a call
) -> Response:
    """The state of a row that the client has not seen, as soon as there is one.

    The response has an ``ETag``: a hash of its body. A client sends it back as ``If-None-Match``,
    and gets the next state that looks different. Without one, it gets the row as it is. Proxies
    close a response that sends nothing for 29 to 60 seconds, so the timeout is shorter.

    Args:
        request: The request.
        source: What ``watcher.follow()`` has returned, with neither ``since`` nor ``until``.
        model: A pydantic model, or another type for pydantic, of what is sent.
        check: Whether the client may see a state; see :func:`event_stream`.
        timeout: How long to wait, in seconds or as a ``timedelta``.

    Returns:
        200 with the state; 304 if there is nothing new, so that the client asks again.

    Raises:
        HTTPException: 404: the row does not exist, or was deleted. 403: ``check`` does not allow
            it. 503, with ``Retry-After``: the process is to end, or no row was read within the
            timeout.
        ClientDisconnect: The client has left.
        InvalidArgumentError: An argument is invalid, or the model cannot be made from the row.
        WatcherStateError, ListenError, DBAPIError: As from the source.

    Example:
        .. code-block:: python

            @app.get("/orders/{order_id}/next", response_model=OrderOut)
            async def next_state(order_id: int, request: Request, watcher: WatcherDep) -> Response:
                return await long_poll(request, watcher.follow(Order, order_id), OrderOut)
    """
    limit = seconds_of("timeout", timeout)
    told = told_of(source, model, check, None)
    if not isinstance(told, OneRow):
        raise InvalidArgumentError("source", source, "what watcher.follow() returns")
    known = set(_TAG.findall(",".join(request.headers.getlist("if-none-match"))))
    try:
        news = await run_while_connected(request, _news(told, known, limit))
    except NotFoundError as error:
        raise HTTPException(HTTPStatus.NOT_FOUND) from error
    finally:
        source.close()
    headers = {"ETag": f'"{told.tag}"', "Cache-Control": "private, no-cache"}
    if news is None or news.raw_data is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(news.raw_data, media_type="application/json", headers=headers)


async def _news(told: OneRow, known: set[str], limit: float) -> ServerSentEvent | None:
    """The first state that is not known; ``None`` after the limit."""
    with anyio.move_on_after(limit):
        async for state in told.source:
            event = await told.event(state)
            if told.tag not in known:
                return event
        if told.source.ended == "deleted":
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if told.source.ended == "closed":
            raise closing()
        await anyio.sleep_forever()  # nothing comes any more, and the client would ask at once
    if told.tag is None:
        raise closing()
    return None
