"""The caller's session during a wait: one wait at a time, and the connection that it holds."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from sqlalchemy.exc import DBAPIError

from rowbell._cancellation import complete, finished
from rowbell._watch.rows.row_select import Layout
from rowbell.errors import SessionStateError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from rowbell._watch.request import WaitRequest

_waiting: WeakSet[Session] = WeakSet()


@contextmanager
def alone(session: Session) -> Generator[None]:
    """Let one wait at a time use the session.

    Raises:
        SessionStateError: Another wait uses it.
    """
    if session in _waiting:
        raise SessionStateError(
            "this session is already waiting in another task, and a session can only be used by "
            "one task at a time: use one session for each wait, or RowWatcher.wait_for_change, "
            "which needs no session"
        )
    _waiting.add(session)
    try:
        yield
    finally:
        _waiting.discard(session)


@asynccontextmanager
async def connection_kept(
    session: AsyncSession, held: Connection | None, idle_limit: str
) -> AsyncGenerator[None]:
    """Explain the error if the connection that a session holds is lost during the wait.

    Args:
        session: The session.
        held: The connection, if the session held one.
        idle_limit: The server's ``idle_in_transaction_session_timeout`` for it.

    Raises:
        SessionStateError: The connection was lost, and so was its transaction.
    """
    try:
        yield
    except DBAPIError as error:
        if held is None or not (held.invalidated or error.connection_invalidated):
            raise
        await complete(session.run_sync(lambda _: held.invalidate()))  # or rollback() would fail
        why = "it was lost"
        if idle_limit != "0":
            why = (
                "it was lost; the server ends transactions that are idle for longer than "
                f"{idle_limit} (idle_in_transaction_session_timeout)"
            )
        raise SessionStateError(
            f"the session held a connection in a transaction during the wait, and {why}: "
            "rollback() now, and commit() or rollback() before the wait"
        ) from error


async def sees(session: AsyncSession, held: Connection, request: WaitRequest) -> bool:
    """Whether the session sees a row that other connections do not see."""
    statement, parameters = request.rows.select([request.key], Layout(request.rows.key_names))
    options = request.rows.execution_options
    asking = session.run_sync(
        lambda _: held.execute(statement, parameters, execution_options=options).first()
    )
    result = await finished(asking)
    return result is not None
