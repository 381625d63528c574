"""Sessions for requests and workers.

A cancellation does not interrupt a rollback or the end of a session. So a client that disconnects,
or a timeout around the block, leaves no open transaction and returns the connection to its pool.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from rowbell._cancellation import complete
from rowbell._sessions.failed_statements import engine_of, note_failures, refuse_failed
from rowbell._urls import refuse_libpq_arguments
from rowbell.errors import PoolExhaustedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from sqlalchemy.ext.asyncio import (
        async_sessionmaker,
    )

SessionT = TypeVar("SessionT", bound=AsyncSession)

_EXHAUSTED: Final = re.compile(r"limit of size (\d+) overflow (-?\d+) reached.*timeout ([\d.]+)")


def create_db_dependency(
    session_maker: async_sessionmaker[SessionT],
) -> Callable[[], AsyncGenerator[SessionT, None]]:
    """A dependency for FastAPI's ``Depends``: a session for each request.

    The session already has its connection when the endpoint begins. After the endpoint, it
    commits if a transaction is open. After an exception or a cancellation, it rolls back. The
    scope decides when: ``Depends(get_db, scope="function")`` commits before the response is
    sent, so a failed commit gives status 500. ``Depends(get_db)`` commits after it, so a
    streaming response can still use the session. See :mod:`rowbell.fastapi` for a ready-made
    form.

    Args:
        session_maker: Creates the sessions, of ``AsyncSession`` or any subclass.

    Returns:
        An async generator function. It raises ``PoolExhaustedError`` before the endpoint runs
        if no connection becomes free within the pool's timeout (``pool_timeout``). It raises
        ``SessionStateError`` instead of committing if the endpoint has caught the error of a
        failed statement, because that commit would store nothing.

    Example:
        .. code-block:: python

            get_db = rowbell.create_db_dependency(async_sessionmaker(engine))


            @app.post("/orders")
            async def create(
                session: Annotated[AsyncSession, Depends(get_db, scope="function")],
            ) -> None: ...
    """
    context = create_db_context(session_maker)

    async def get_db() -> AsyncGenerator[SessionT, None]:
        async with context() as session:
            yield session

    return get_db


def create_db_context(
    session_maker: async_sessionmaker[SessionT],
) -> Callable[[], AbstractAsyncContextManager[SessionT]]:
    """The same life cycle for workers, command-line programs and tests.

    Args:
        session_maker: Creates the sessions, of ``AsyncSession`` or any subclass.

    Returns:
        A function that returns an async context manager. It yields a session that already has
        its connection. At the end it commits if a transaction is open; it rolls back on an
        exception or a cancellation. It raises ``PoolExhaustedError`` if no connection becomes
        free within the pool's timeout, at the start or inside the block. After the block the
        session is closed permanently: using it raises SQLAlchemy's ``InvalidRequestError``.

    Example:
        .. code-block:: python

            db = rowbell.create_db_context(async_sessionmaker(engine))

            async with db() as session:
                session.add(Order(status="new"))
    """
    # If a background task used the session after its end, the session would begin a transaction
    # that nobody commits or closes. So it refuses, unless the session maker has another setting.
    options = {"close_resets_only": False} | session_maker.kw

    @asynccontextmanager
    async def db_context() -> AsyncGenerator[SessionT, None]:
        session = session_maker(**options)
        try:
            await _check_out(session)
            yield session
            if session.in_transaction():
                await refuse_failed(session)
                await session.commit()
        except PoolTimeoutError as error:
            exhausted = _exhausted(error)
            if exhausted is None:
                raise
            raise exhausted from error
        finally:
            await complete(session.close())

    return db_context


async def _check_out(session: AsyncSession) -> None:
    """Check the session's connection out of the pool, unless the caller begins its transactions."""
    note_failures(session)
    engine = engine_of(session)
    if engine is None:
        return
    refuse_libpq_arguments(engine)
    if session.sync_session.autobegin:
        await session.connection()


def _exhausted(error: PoolTimeoutError) -> PoolExhaustedError | None:
    """The error with the pool's numbers as attributes; ``None`` if it already is that error.

    Only SQLAlchemy's message contains them. The pool may belong to another engine than the
    session's.
    """
    numbers = _EXHAUSTED.search(str(error))
    if numbers is None:
        return None
    size, overflow, waited = numbers.groups()
    return PoolExhaustedError(size=int(size), overflow=int(overflow), waited=float(waited))
