"""Which connections are in a transaction in which a statement has failed.

PostgreSQL answers the COMMIT of such a transaction by rolling back, and drivers take that for
success. So where an error was caught and nothing was rolled back, a commit asks first, and raises.
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
    """The session's engine; ``None`` where it is bound per model, and has not just one."""
    try:
        return session.get_bind().engine
    except UnboundExecutionError:
        return None


_failed: Final[WeakSet[Connection]] = WeakSet()
"""The connections on which a statement has failed since they were checked out."""


# Not event.contains(), which knows its targets by id(): another's, once that is gone.
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
        SessionStateError: It would.
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
            "would store nothing of it. Put what may fail into get_transaction(session), which "
            "undoes it alone, or await session.rollback()"
        ) from error
