"""Transactions and SAVEPOINTs inside of a session.

A cancellation does not interrupt what ends a transaction: a timeout around the block leaves none
open.
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
    note_failures(session)
    async with _completed(session.begin()):
        yield session
        await refuse_failed(session)


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
    """Explain the error of a statement in the block that needs a transaction and has none.

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
