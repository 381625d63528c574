"""What runs only while its client is connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from inspect import iscoroutine
from typing import Any, TypeVar

import anyio
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from rowbell.fastapi.reconnection import retry_after
from rowbell.fastapi.watchers import watchers_of

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
        with suppress(RuntimeError):  # it was read as a form or as a stream
            await request.body()
    except BaseException:
        if iscoroutine(awaitable):
            awaitable.close()
        raise
    ended: list[Exception] = []
    failure: Exception | None = None
    results: list[T] = []
    async with anyio.create_task_group() as tasks:

        async def end_when(happens: Callable[[], Awaitable[Any]], error: Exception) -> None:
            await happens()
            ended.append(error)
            tasks.cancel_scope.cancel()

        tasks.start_soon(end_when, lambda: _left(request), ClientDisconnect())
        for watcher in watchers_of(request).values():
            tasks.start_soon(end_when, watcher.streams_closing.wait, closing())
        try:
            results.append(await awaitable)
        except Exception as error:  # noqa: BLE001  # raised below, without an exception group
            failure = error
        tasks.cancel_scope.cancel()
    if results:
        return results[0]
    raise failure or ended[0]


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def closing() -> HTTPException:
    """The answer of a process that is to end."""
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, headers=retry_after())
