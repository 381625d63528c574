"""Sessions for requests and workers, and transactions inside of them.

What ends a session or rolls back is not cut short by a cancellation: a client that has gone,
or a timeout around the block, leaves no transaction open and no connection out of its pool.

PostgreSQL answers the COMMIT of a transaction in which a statement has failed by rolling back,
and drivers take that for success. So where an error was caught and nothing was rolled back, a
commit here asks first, and raises.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from rowbell._cancellation import complete
from rowbell._mapping import sync_connection
from rowbell._sqlstate import IN_FAILED_TRANSACTION, NO_ACTIVE_TRANSACTION, has_sqlstate
from rowbell._urls import refuse_libpq_arguments
from rowbell.errors import PoolExhaustedError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from sqlalchemy import Dialect, Engine
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncSessionTransaction,
        AsyncTransaction,
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
                await _refuse_failed(session)
                await session.commit()
        except PoolTimeoutError as error:
            exhausted = _exhausted(error)
            if exhausted is None:
                raise
            raise exhausted from error
        finally:
            await complete(session.close())

    return db_context


@asynccontextmanager
async def get_transaction(session: SessionT) -> AsyncGenerator[SessionT, None]:
    """A transaction in a session: a SAVEPOINT where one is open already.

    Without an open transaction, one is begun, committed at the end, and rolled back on an
    exception. Inside of one, a SAVEPOINT takes its place, so that only the block is undone and
    the transaction around it goes on; also where the block is cancelled, by a timeout say. (Not
    in the middle of a statement: that costs the connection, and so the whole transaction.)

    Args:
        session: The session. What it has pending is flushed before a SAVEPOINT.

    Yields:
        The session.

    Raises:
        SessionStateError: A statement has failed in the block, its error was caught, and
            nothing was rolled back: a commit would store nothing.

    Example:
        .. code-block:: python

            async with rowbell.get_transaction(session):
                session.add(Order(status="new"))
    """
    if session.in_transaction():
        async with _completed(session.begin_nested()):
            yield session
        return
    _note_failures(session)
    async with _completed(session.begin()):
        yield session
        await _refuse_failed(session)


@asynccontextmanager
async def savepoint(
    session: AsyncSession, bind: Engine | Connection
) -> AsyncGenerator[AsyncConnection]:
    """A SAVEPOINT on a session's connection, begun without flushing what the session has pending.

    Args:
        session: The session; a transaction is begun if none is open, and left open.
        bind: Its engine or connection.

    Yields:
        The connection.

    Raises:
        SessionStateError: The session is in AUTOCOMMIT, where there are no transactions, or has
            ``autobegin=False`` and none.
    """
    refuse_unbegun(session)
    connection = await session.connection(bind_arguments={"bind": bind})
    async with _completed(connection.begin_nested()):
        yield connection


@contextmanager
def refuse_autocommit() -> Generator[None]:
    """Say what is wrong where a statement of the block needs a transaction and has none.

    Raises:
        SessionStateError: The session is in AUTOCOMMIT.
    """
    try:
        yield
    except DBAPIError as error:
        if not has_sqlstate(error, NO_ACTIVE_TRANSACTION):
            raise
        raise SessionStateError(
            "the session is in AUTOCOMMIT, where nothing lasts longer than a statement: use one "
            "with an isolation level"
        ) from error


@asynccontextmanager
async def _completed(
    transaction: AsyncSessionTransaction | AsyncTransaction,
) -> AsyncGenerator[None]:
    with refuse_autocommit():
        await transaction.__aenter__()
    try:
        yield
    except BaseException as error:
        await complete(transaction.__aexit__(type(error), error, error.__traceback__))
        raise
    else:
        await transaction.__aexit__(None, None, None)


def refuse_unbegun(session: AsyncSession) -> None:
    """Refuse a session that is in no transaction and begins none by itself.

    Raises:
        SessionStateError: It has ``autobegin=False``, and no transaction.
    """
    if not session.sync_session.autobegin and not session.in_transaction():
        raise SessionStateError(
            "the session has autobegin=False and is in no transaction: await session.begin() "
            "first, or put this into get_transaction(session)"
        )


async def _check_out(session: AsyncSession) -> None:
    """Check the session's connection out of the pool, unless its transactions are the caller's."""
    _note_failures(session)
    engine = _engine_of(session)
    if engine is None:
        return
    refuse_libpq_arguments(engine)
    if session.sync_session.autobegin:
        await session.connection()


def _engine_of(session: AsyncSession) -> Engine | None:
    """The session's engine; ``None`` where it is bound per model, and has not just one."""
    try:
        return session.get_bind().engine
    except UnboundExecutionError:
        return None


_failed: Final[WeakSet[Connection]] = WeakSet()
"""The connections on which a statement has failed since they were checked out."""


# Not event.contains(), which knows its targets by id(): another's, once that is gone.
_listening: Final[WeakSet[Dialect]] = WeakSet()


def _note_failures(session: AsyncSession) -> None:
    engine = _engine_of(session)
    if engine is not None and engine.dialect not in _listening:
        _listening.add(engine.dialect)
        event.listen(engine, "handle_error", _note_failure)


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None:
        _failed.add(context.connection)


async def _refuse_failed(session: AsyncSession) -> None:
    """Refuse to commit a transaction that PostgreSQL would roll back.

    Raises:
        SessionStateError: It would.
    """
    if not (_failed and session.in_transaction() and _engine_of(session)):
        return
    connection = await session.connection()
    if sync_connection(connection) not in _failed:
        return
    try:
        await connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        if not has_sqlstate(error, IN_FAILED_TRANSACTION):
            raise
        raise SessionStateError(
            "a statement of this transaction has failed, and its error was caught: a commit "
            "would store nothing of it. Put what may fail into get_transaction(session), which "
            "undoes it alone, or await session.rollback()"
        ) from error


def _exhausted(error: PoolTimeoutError) -> PoolExhaustedError | None:
    """The same with the pool's numbers as attributes, unless it is that already.

    They are in SQLAlchemy's sentence alone, and that may be of another engine's pool than the
    session's.
    """
    numbers = _EXHAUSTED.search(str(error))
    if numbers is None:
        return None
    size, overflow, waited = numbers.groups()
    return PoolExhaustedError(size=int(size), overflow=int(overflow), waited=float(waited))
