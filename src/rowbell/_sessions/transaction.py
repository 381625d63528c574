"""Transactions and SAVEPOINTs inside a session.

A cancellation does not interrupt the end of a transaction, so a timeout around the block leaves no
open transaction.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from rowbell._cancellation import complete
from rowbell._sessions.failed_statements import note_failures, refuse_failed
from rowbell._sqlstate import NO_ACTIVE_TRANSACTION, has_sqlstate
from rowbell.errors import SessionStateError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncSessionTransaction,
        AsyncTransaction,
    )

SessionT = TypeVar("SessionT", bound=AsyncSession)


@asynccontextmanager
async def get_transaction(session: SessionT) -> AsyncGenerator[SessionT, None]:
    """A transaction in a session, or a SAVEPOINT if one is open already.

    Without an open transaction, one is begun, committed at the end, and rolled back on an
    exception. Inside a transaction, the block is a SAVEPOINT: on an exception only the block is
    rolled back, and the outer transaction continues. This also holds if the block is cancelled,
    by a timeout for example. (But a cancellation in the middle of a statement closes the
    connection, and so the whole transaction is lost.)

    Args:
        session: The session. Pending changes are flushed before a SAVEPOINT.

    Yields:
        The session.

    Raises:
        SessionStateError: A statement in the block has failed, its error was caught, and
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
    note_failures(session)
    async with _completed(session.begin()):
        yield session
        await refuse_failed(session)


@asynccontextmanager
async def savepoint(
    session: AsyncSession, bind: Engine | Connection
) -> AsyncGenerator[AsyncConnection]:
    """A SAVEPOINT on a session's connection. The session's pending changes are not flushed.

    Args:
        session: The session. If no transaction is open, one is begun, and stays open.
        bind: Its engine or connection.

    Yields:
        The connection.

    Raises:
        SessionStateError: The session is in AUTOCOMMIT, where there are no transactions, or it
            has ``autobegin=False`` and is in no transaction.
    """
    refuse_unbegun(session)
    connection = await session.connection(bind_arguments={"bind": bind})
    async with _completed(connection.begin_nested()):
        yield connection


@contextmanager
def refuse_autocommit() -> Generator[None]:
    """Explain the error of a statement that needs a transaction in a session without one.

    Raises:
        SessionStateError: The session is in AUTOCOMMIT.
    """
    try:
        yield
    except DBAPIError as error:
        if not has_sqlstate(error, NO_ACTIVE_TRANSACTION):
            raise
        raise SessionStateError(
            "the session is in AUTOCOMMIT, where there are no transactions: use a session with an "
            "isolation level"
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
    """Refuse a session that is in no transaction and does not begin one automatically.

    Raises:
        SessionStateError: It has ``autobegin=False`` and is in no transaction.
    """
    if not session.sync_session.autobegin and not session.in_transaction():
        raise SessionStateError(
            "the session has autobegin=False and is in no transaction: await session.begin() "
            "first, or put this into get_transaction(session)"
        )
