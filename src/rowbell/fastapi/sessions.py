"""A request's session as a parameter of an endpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final, TypeAlias

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.requests import HTTPConnection

from rowbell._sessions.dependency import create_db_context
from rowbell.errors import SessionStateError

_SESSION_MAKER: Final = "rowbell_session_maker"


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
