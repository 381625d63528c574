"""The kinds of errors of reads: errors that pass, errors of the connection, and all others.

After an error that passes, the read is repeated at the wait's interval. After any other error it is
repeated once on a new connection, because a connection caches prepared statements and types that a
migration may have changed. Only if that fails too, a wait ends with the error. A complete list of
the errors of stale connections is not possible.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Final, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rowbell._cancellation import HookCancelledError
from rowbell._sqlstate import sqlstate_of

ErrorT = TypeVar("ErrorT", bound=BaseException)

_LOST: Final = ("08", "57P", "25P03", "25P04")
"""The connection is lost: its own errors, a server shutdown, timeouts that end a session."""

_PASSING: Final = (*_LOST, "40", "53", "55", "57", "58")
"""Also rollback, resources, object state, intervention, I/O (appendix A, "Error Codes")."""

_ANSWERED: Final = ("40", "532", "534", "55", "57014")
"""Those of them that a slow or a locked row can cause."""

_STALE: Final = ("0A", "26", "XX")
"""Those of the others that outdated prepared statements and types cause."""

_PASSING_SQLITE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}


class UnreachableError(Exception):
    """No connection could be opened; ``reason`` is the error of the attempt."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(str(reason))

    @property
    def passes(self) -> bool:
        """Whether a later attempt may succeed."""
        return isinstance(self.reason, HookCancelledError) or is_passing(self.reason)


def is_passing(error: BaseException) -> bool:
    """Whether the same read may succeed later."""
    if state := sqlstate_of(error):
        return state.startswith(_PASSING)
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error, DBAPIError):
        sqlite: int | None = getattr(error.orig, "sqlite_errorcode", None)
        if sqlite is not None:
            return sqlite & 0xFF in _PASSING_SQLITE
        # asyncpg reports a value that it cannot bind as an interface error too.
        unbindable = _is_for_good(getattr(error.orig, "__cause__", None))
        return not unbindable and isinstance(error, InterfaceError | OperationalError)
    if isinstance(error, asyncpg.InterfaceError):  # on the LISTEN connection, without SQLAlchemy
        return not _is_for_good(error)
    # A certificate that cannot be verified is an OSError and a ValueError.
    return isinstance(error, OSError | TimeoutError | EOFError) and not _is_for_good(error)


def is_of_the_connection(error: BaseException) -> bool:
    """Whether a new connection may succeed at once, because the old one is lost or stale."""
    if state := sqlstate_of(error):
        return state.startswith(_LOST) or not state.startswith(_PASSING)
    if isinstance(error, DBAPIError):
        return not isinstance(error.orig, sqlite3.Error)
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)


def may_be_stale(error: BaseException) -> bool:
    """Whether a stale connection, which has cached an old schema, may raise this error.

    Only used if no new connection can be opened. A new one would show it.
    """
    state = sqlstate_of(error)
    return not state or state.startswith(_STALE)


def is_answered(error: BaseException) -> bool:
    """Whether the error is an answer of the server, and may concern one of many rows."""
    return sqlstate_of(error).startswith(_ANSWERED)


def _is_for_good(error: object) -> bool:
    return isinstance(error, ValueError | TypeError)


def own(error: ErrorT) -> ErrorT:
    """A copy of an error, for one of several waits: each adds its own traceback and notes."""
    try:
        copied = type(error).__new__(type(error), *error.args)
        vars(copied).update(vars(error))
    except Exception:  # noqa: BLE001  # an error's constructor may take anything
        return error
    copied.__cause__, copied.__context__ = error.__cause__, error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        copied.__notes__ = list(notes)
    return copied.with_traceback(error.__traceback__)


def as_result(error: BaseException) -> BaseException:
    """The error of application code, in a form that ``await`` may raise.

    ``await`` may not raise StopIteration or GeneratorExit. StopAsyncIteration would end a loop, and
    CancelledError would mean that the caller was cancelled.
    """
    if isinstance(
        error, StopIteration | StopAsyncIteration | asyncio.CancelledError | GeneratorExit
    ):
        wrapped = RuntimeError(f"a function of the application raised {type(error).__name__}")
        wrapped.__cause__ = error
        return wrapped
    return error
