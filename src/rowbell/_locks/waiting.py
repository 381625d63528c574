"""The wait for a lock: limited by ``lock_timeout``, which is restored afterwards."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from rowbell._sessions.transaction import refuse_autocommit
from rowbell._sqlstate import LOCK_NOT_AVAILABLE, QUERY_CANCELED, has_sqlstate
from rowbell.errors import LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from rowbell._lock_timeout import LockTimeout

_RESTORE = text("SELECT set_config('lock_timeout', :previous, true)")


@asynccontextmanager
async def lock_wait(
    connection: AsyncConnection, timeout: LockTimeout | None, objects: Iterable[str], mode: str
) -> AsyncGenerator[None, None]:
    """Set ``lock_timeout`` for the statements of the block, and restore it afterwards.

    Use it inside a transaction or SAVEPOINT that is rolled back on an error: the rollback restores
    the setting too.

    Args:
        connection: The session's connection.
        timeout: The longest wait; ``None`` keeps the caller's ``lock_timeout``.
        objects: The locked objects, for the error.
        mode: The mode of the lock, for the error.

    Raises:
        LockTimeoutError: The lock was not acquired in time.
        SessionStateError: The session is in AUTOCOMMIT.
    """
    try:
        if timeout is None:
            with refuse_autocommit():
                yield
            return
        # Neither statement takes a snapshot, which in REPEATABLE READ would be older than the lock.
        previous = await connection.scalar(text("SHOW lock_timeout"))
        await connection.execute(text(f"SET LOCAL lock_timeout = '{timeout}'"))
        with refuse_autocommit():
            yield
    except DBAPIError as error:
        wait = None if timeout is None else str(timeout)
        if has_sqlstate(error, LOCK_NOT_AVAILABLE):
            raise LockTimeoutError(objects, mode, wait) from error
        if has_sqlstate(
            error, QUERY_CANCELED
        ):  # by a shorter statement_timeout, or by pg_cancel_backend()
            raise LockTimeoutError(objects, mode, wait, cancelled=str(error.orig)) from error
        raise
    await connection.execute(_RESTORE, {"previous": previous})
