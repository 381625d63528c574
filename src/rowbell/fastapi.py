"""FastAPI: a request's session as a parameter, error responses, and clients that disconnect.

``pip install rowbell[fastapi]``
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Final, TypeAlias

import anyio
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

try:
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import JSONResponse
    from starlette.requests import ClientDisconnect, HTTPConnection
    from starlette.responses import Response
except ImportError as error:
    raise ImportError("rowbell.fastapi needs FastAPI: pip install rowbell[fastapi]") from error

from rowbell._sessions.dependency import create_db_context
from rowbell.errors import (
    LockTimeoutError,
    NotFoundError,
    SessionStateError,
    WatcherStateError,
)

_SESSION_MAKER: Final = "rowbell_session_maker"
_ANSWERS: Final = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (LockTimeoutError, HTTPStatus.CONFLICT),
    (PoolTimeoutError, HTTPStatus.SERVICE_UNAVAILABLE),
    (WatcherStateError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's; no client reads it
_RETRY_AFTER: Final = {"Retry-After": "1"}

logger = logging.getLogger("rowbell")


def add_sessions(app: FastAPI, session_maker: async_sessionmaker[AsyncSession]) -> None:
    """Configure the sessions of ``SessionDep`` and ``StreamingSessionDep`` for an app.

    A second call replaces them, as in tests. A mounted sub-application needs its own call.

    Args:
        app: The application.
        session_maker: Creates a session for each request.

    Example:
        .. code-block:: python

            app = FastAPI()
            rowbell.fastapi.add_sessions(app, async_sessionmaker(engine))
    """
    setattr(app.state, _SESSION_MAKER, session_maker)


async def request_session(connection: HTTPConnection) -> AsyncGenerator[AsyncSession, None]:
    """The session of a request, as ``rowbell.create_db_dependency`` creates it.

    Raises:
        SessionStateError: ``add_sessions()`` was not called for the app.
        PoolExhaustedError: No connection became free within the pool's timeout.
    """
    session_maker = getattr(connection.app.state, _SESSION_MAKER, None)
    if session_maker is None:
        raise SessionStateError(
            "this app has no sessions: call rowbell.fastapi.add_sessions(app, session_maker) "
            "after creating the app"
        )
    async with create_db_context(session_maker)() as session:
        yield session


SessionDep: TypeAlias = Annotated[AsyncSession, Depends(request_session, scope="function")]
"""A parameter of an endpoint or a dependency: the request's session, which is committed before
the response is sent. All parameters of this type in one request are the same session."""

StreamingSessionDep: TypeAlias = Annotated[AsyncSession, Depends(request_session, scope="request")]
"""The same, but committed and closed after the response was sent: for streaming responses that
still use the session. It is another session than that of ``SessionDep`` in the same request."""


def add_exception_handlers(app: FastAPI) -> None:
    """Answer with 404, 409 or 503 if an endpoint raises one of rowbell's errors.

    ``NotFoundError`` becomes 404, ``LockTimeoutError`` 409, ``PoolExhaustedError`` (with any
    other ``sqlalchemy.exc.TimeoutError``) and ``WatcherStateError`` (the application shuts down)
    503. All but the first have ``Retry-After: 1``. The body is FastAPI's
    ``{"detail": "Not Found"}``. The error's message contains names of tables and keys, so it is
    never sent to the client; for all but the first, the logger ``rowbell`` logs it. A
    ``ClientDisconnect`` of :func:`while_connected` is not logged.

    ``WaitTimeoutError`` has no handler: the application must decide what the end of a long poll
    means.

    Args:
        app: The application. A handler that it adds later for one of these errors replaces it.

    Example:
        .. code-block:: python

            app = FastAPI()
            rowbell.fastapi.add_exception_handlers(app)
    """
    for error, status in _ANSWERS:
        app.add_exception_handler(error, _answer(status))
    app.add_exception_handler(ClientDisconnect, _nobody)


async def _nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


@asynccontextmanager
async def while_connected(request: Request) -> AsyncGenerator[None, None]:
    """Cancel the block when the client disconnects.

    An endpoint does not notice a disconnect: a long poll would continue until its timeout. The
    request's body must be read before.

    Args:
        request: The request.

    Raises:
        ClientDisconnect: The client has disconnected. This is Starlette's exception;
            ``add_exception_handlers`` handles it.

    Example:
        .. code-block:: python

            @app.get("/orders/{order_id}/next", response_model=str)
            async def next_state(order_id: int, seen: str, request: Request) -> str | Response:
                async with rowbell.fastapi.while_connected(request), new_session() as session:
                    try:
                        order = await rowbell.wait_for_row_change(
                            session, Order, order_id, since={"status": seen}, timeout=25
                        )
                    except rowbell.WaitTimeoutError:
                        return Response(status_code=204)
                    return order.status
    """
    has_left, failure = False, None
    async with anyio.create_task_group() as tasks:

        async def look() -> None:
            nonlocal has_left
            while (await request.receive())["type"] != "http.disconnect":
                pass
            has_left = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(look)
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised below, without an exception group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if has_left:
        raise ClientDisconnect


def _answer(status: HTTPStatus) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        busy = status is not HTTPStatus.NOT_FOUND
        if busy:
            logger.warning("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(
            {"detail": status.phrase}, status, headers=_RETRY_AFTER if busy else None
        )

    return answer
