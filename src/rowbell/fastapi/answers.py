"""Answers to rowbell's errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rowbell.errors import InvalidKeyError, LockTimeoutError, NotFoundError, WatcherStateError

_ANSWERS: Final = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (InvalidKeyError, HTTPStatus.NOT_FOUND),
    (LockTimeoutError, HTTPStatus.CONFLICT),
    (PoolTimeoutError, HTTPStatus.SERVICE_UNAVAILABLE),
    (WatcherStateError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's; no client reads it
_RETRY_AFTER: Final = {"Retry-After": "1"}

logger: logging.Logger = logging.getLogger("rowbell")


def add_exception_handlers(app: FastAPI) -> None:
    """Answer with 404, 409 or 503 if an endpoint raises one of rowbell's errors.

    ``NotFoundError`` becomes 404, as does ``InvalidKeyError`` (a key from a URL that is out of
    range), ``LockTimeoutError`` 409, ``PoolExhaustedError`` (with any
    other ``sqlalchemy.exc.TimeoutError``) and ``WatcherStateError`` (the application shuts down)
    503. All but the first have ``Retry-After: 1``. The body is FastAPI's
    ``{"detail": "Not Found"}``. The error's message contains names of tables and keys, so it is
    never sent to the client; for all but the first, the logger ``rowbell`` logs it. A
    ``ClientDisconnect`` of :func:`run_while_connected` is not logged.

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


def _answer(status: HTTPStatus) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        busy = status is not HTTPStatus.NOT_FOUND
        if not isinstance(error, NotFoundError):
            logger.warning("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(
            {"detail": status.phrase}, status, headers=_RETRY_AFTER if busy else None
        )

    return answer
