"""Which connections are in a transaction in which a statement has failed.

PostgreSQL answers the COMMIT of such a transaction with a rollback, and drivers treat that as
success. So if an error was caught and nothing was rolled back, the commit is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, UnboundExecutionError

from rowbell._mapping import sync_connection
from rowbell._sqlstate import IN_FAILED_TRANSACTION, has_sqlstate
from rowbell.errors import SessionStateError

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Engine
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncSession


def engine_of(session: AsyncSession) -> Engine | None:
    """The session's engine; ``None`` if it has several, one for each model."""
    try:
        return session.get_bind().engine
    except UnboundExecutionError:
        return None


_failed: Final[WeakSet[Connection]] = WeakSet()
"""The connections on which a statement has failed since they were checked out."""


# Not event.contains(): it compares targets by id(), and a later object may have the same id().
_listening: Final[WeakSet[Dialect]] = WeakSet()


def note_failures(session: AsyncSession) -> None:
    engine = engine_of(session)
    if engine is not None and engine.dialect not in _listening:
        _listening.add(engine.dialect)
        event.listen(engine, "handle_error", _note_failure)


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None:
        _failed.add(context.connection)


async def refuse_failed(session: AsyncSession) -> None:
    """Refuse to commit a transaction that PostgreSQL would roll back.

    Raises:
        SessionStateError: PostgreSQL would roll it back.
    """
    if not (_failed and session.in_transaction() and engine_of(session)):
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
            "would store nothing. Run the statement in get_transaction(session), which rolls "
            "back only that block, or await session.rollback()"
        ) from error
