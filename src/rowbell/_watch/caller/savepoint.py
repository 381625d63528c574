"""Reads on a connection that belongs to the caller. They must not abort its transaction.

Each read has its own SAVEPOINT. But the caller may use the connection at the same time, as a test
does that waits for what it writes there. A statement of the caller between the statements of the
read would be rolled back with the read, or would release its SAVEPOINT. So the caller's statements
wait until the read has ended.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

from rowbell._sqlstate import NO_ACTIVE_TRANSACTION, has_sqlstate

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Generator


@contextmanager
def in_savepoint(connection: Connection) -> Generator[None]:
    """Run the statements of the block in a SAVEPOINT, without other statements between them.

    Args:
        connection: A connection in a transaction, used in a greenlet of SQLAlchemy.
    """
    turns = _turns.get(connection)
    if turns is None:
        turns = _turns[connection] = _Turns(connection)
    with turns.taken():
        try:
            connection.exec_driver_sql("SAVEPOINT rowbell_read")
        except DBAPIError as error:
            if not has_sqlstate(error, NO_ACTIVE_TRANSACTION):
                raise
            yield  # in AUTOCOMMIT a read aborts nothing
            return
        try:
            yield
        except BaseException:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT rowbell_read")
            raise
        finally:
            connection.exec_driver_sql("RELEASE SAVEPOINT rowbell_read")


class _Turns:
    """Which task may use a connection: any task, or only one."""

    def __init__(self, connection: Connection) -> None:
        self._holder: Task[Any] | None = None
        self._over = asyncio.Event()
        # They are never removed: events cannot be removed while one is handled.
        for name in ("before_cursor_execute", "commit", "rollback"):
            event.listen(connection, name, self._wait)

    @contextmanager
    def taken(self) -> Generator[None]:
        self._wait()
        self._holder, self._over = asyncio.current_task(), asyncio.Event()
        try:
            yield
        finally:
            self._holder = None
            self._over.set()

    def _wait(self, *_: object) -> None:
        while self._holder is not None and self._holder is not asyncio.current_task():
            await_only(self._over.wait())


_turns: WeakKeyDictionary[Connection, _Turns] = WeakKeyDictionary()
