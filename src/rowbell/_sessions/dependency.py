"""Sessions for requests and workers.

A cancellation does not interrupt what ends a session or rolls back. So a client that leaves, or a
timeout around the block, leaves no transaction open and no connection out of its pool.
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

    The session has its connection when the endpoint begins. After the endpoint it commits, if
    a transaction is open; an exception or a cancellation rolls back. When that happens is the
    scope's choice: ``Depends(get_db, scope="function")`` commits before the response is sent,
    so that a commit that fails is a 500; ``Depends(get_db)`` after it, so that a streaming
    response may go on using the session. See :mod:`rowbell.fastapi` for a ready-made form.

    Args:
        session_maker: Makes the sessions; of any subclass of ``AsyncSession``.

    Returns:
        An async-generator function. It raises ``PoolExhaustedError`` before the endpoint runs
        where all connections are in use for as long as the pool waits (``pool_timeout``), and
        ``SessionStateError`` instead of a commit that would store nothing, because the endpoint
        has caught the error of a statement that failed.

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
    """The same life cycle for workers, command lines and tests.

    Args:
        session_maker: Makes the sessions; of any subclass of ``AsyncSession``.

    Returns:
        A function whose result is used in ``async with``. It yields a session that has its
        connection, commits at the end if a transaction is open, and rolls back on an exception
        or a cancellation. It raises ``PoolExhaustedError`` where all connections are in use for
        as long as the pool waits: when it is entered, or when that happens in the block. After the
        block the session is closed for good: using it raises SQLAlchemy's
        ``InvalidRequestError``.

    Example:
        .. code-block:: python

            db = rowbell.create_db_context(async_sessionmaker(engine))

            async with db() as session:
                session.add(Order(status="new"))
    """
    # A session that is used after its end, by a background task say, would begin anew, and nobody
    # would commit or close it. So it refuses, unless the maker says otherwise.
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
    """Check the session's connection out of the pool, unless its transactions are the caller's."""
    note_failures(session)
    engine = engine_of(session)
    if engine is None:
        return
    refuse_libpq_arguments(engine)
    if session.sync_session.autobegin:
        await session.connection()


def _exhausted(error: PoolTimeoutError) -> PoolExhaustedError | None:
    """The error with the pool's numbers as attributes; ``None`` if it is one already.

    They are in SQLAlchemy's sentence alone, and that may be of another engine's pool than the
    session's.
    """
    numbers = _EXHAUSTED.search(str(error))
    if numbers is None:
        return None
    size, overflow, waited = numbers.groups()
    return PoolExhaustedError(size=int(size), overflow=int(overflow), waited=float(waited))
