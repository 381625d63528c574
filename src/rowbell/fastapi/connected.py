"""What runs only while its client is connected."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from inspect import iscoroutine
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from rowbell.fastapi.racing import End, unless
from rowbell.fastapi.watchers import closing, watchers_of

T = TypeVar("T")


async def run_while_connected(request: Request, awaitable: Awaitable[T]) -> T:
    """Await something, but end it when the client has left or the process is to end.

    A server does not tell an endpoint that its client has left: a long poll would go on until its
    timeout. The request's body is read first, and stays available as ``await request.body()``.

    Args:
        request: The request.
        awaitable: What to await. It is cancelled when the client leaves.

    Returns:
        Its result.

    Raises:
        ClientDisconnect: The client has left. It is Starlette's; ``add_exception_handlers``
            handles it. Nobody receives the answer.
        HTTPException: Status 503, with ``Retry-After``: the app's watchers close their streams,
            because the process is to end (see ``lifespan``).

    Example:
        .. code-block:: python

            @app.get("/orders/{order_id}/paid")
            async def paid(order_id: int, request: Request, watcher: WatcherDep) -> str:
                order = await rowbell.fastapi.run_while_connected(
                    request,
                    watcher.wait_for_change(Order, order_id, until=Order.status == "paid"),
                )
                return order.status
    """
    try:
        others = ends(request)
        await unless(_read_body(request), others)
        has_left: End = (lambda: _left(request), ClientDisconnect())
        return await unless(awaitable, [has_left, *others])
    finally:
        if iscoroutine(awaitable):
            awaitable.close()  # it has not begun, or is over


async def _read_body(request: Request) -> None:
    with suppress(RuntimeError):  # it was read as a form or as a stream
        await request.body()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def ends(request: Request) -> list[End]:
    """The end of the process, which each of the app's watchers may tell."""
    watchers = watchers_of(request).values()
    return [(watcher.streams_closing.wait, closing()) for watcher in watchers]
