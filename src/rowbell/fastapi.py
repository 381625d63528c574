"""For FastAPI: a request's session as an annotated parameter, and answers to rowbell's errors.

``pip install rowbell[fastapi]``
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Final, TypeAlias

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.requests import HTTPConnection

from rowbell.errors import LockTimeoutError, NotFoundError, SessionStateError
from rowbell.session import create_db_context

_SESSION_MAKER: Final = "rowbell_session_maker"
_ANSWERS: Final = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (LockTimeoutError, HTTPStatus.CONFLICT),
    (PoolTimeoutError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_RETRY_AFTER: Final = {"Retry-After": "1"}

logger = logging.getLogger("rowbell")


def add_sessions(app: FastAPI, session_maker: async_sessionmaker[AsyncSession]) -> None:
    """Give an app the sessions of ``SessionDep`` and ``StreamingSessionDep``.

    Calling it again replaces them, as tests do. A mounted sub-application needs its own.

    Args:
        app: The application.
        session_maker: Makes a session for each request.

    Example:
        .. code-block:: python

            app = FastAPI()
            rowbell.fastapi.add_sessions(app, async_sessionmaker(engine))
    """
    setattr(app.state, _SESSION_MAKER, session_maker)


async def request_session(connection: HTTPConnection) -> AsyncGenerator[AsyncSession, None]:
    """The session of a request, as ``rowbell.create_db_dependency`` makes it.

    Raises:
        SessionStateError: ``add_sessions()`` was not called for the app.
        PoolExhaustedError: All connections are in use for as long as the pool waits.
    """
    session_maker = getattr(connection.app.state, _SESSION_MAKER, None)
    if session_maker is None:
        raise SessionStateError(
            "this app has no sessions: call rowbell.fastapi.add_sessions(app, session_maker) "
            "where it is made"
        )
    async with create_db_context(session_maker)() as session:
        yield session


SessionDep: TypeAlias = Annotated[AsyncSession, Depends(request_session, scope="function")]
"""A parameter of an endpoint or a dependency: the request's session, committed before the
response is sent. All parameters of this type in one request are the same session."""

StreamingSessionDep: TypeAlias = Annotated[AsyncSession, Depends(request_session, scope="request")]
"""The same, committed and closed after the response has been sent: for streaming responses
that go on using the session. Not the session of a ``SessionDep`` in the same request."""


def add_exception_handlers(app: FastAPI) -> None:
    """Answer 404, 409 and 503 where rowbell's errors leave an endpoint.

    ``NotFoundError`` becomes 404, ``LockTimeoutError`` 409, and ``PoolExhaustedError`` (with
    any other ``sqlalchemy.exc.TimeoutError``) 503; the last two with ``Retry-After: 1``. The
    body is FastAPI's ``{"detail": "Not Found"}``. The error's own sentence, which names tables
    and keys, goes to the logger ``rowbell`` for the last two, and never to the client.

    Args:
        app: The application. A handler that it adds afterwards for one of them takes over.

    Example:
        .. code-block:: python

            app = FastAPI()
            rowbell.fastapi.add_exception_handlers(app)
    """
    for error, status in _ANSWERS:
        app.add_exception_handler(error, _answer(status))


def _answer(status: HTTPStatus) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        busy = status is not HTTPStatus.NOT_FOUND
        if busy:
            logger.warning("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(
            {"detail": status.phrase}, status, headers=_RETRY_AFTER if busy else None
        )

    return answer
