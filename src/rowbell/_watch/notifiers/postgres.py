"""The notifier that uses PostgreSQL's LISTEN. It connects, and says why it cannot notify."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from rowbell._libpq import UntranslatableError
from rowbell._sqlstate import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_SCHEMA_NAME,
    INVALID_SQL_STATEMENT_NAME,
    READ_ONLY_TRANSACTION,
    UNDEFINED_FUNCTION,
    UNDEFINED_TABLE,
    sqlstate_of,
)
from rowbell._watch.database.calls import Calls
from rowbell._watch.failures import UnreachableError, is_passing
from rowbell._watch.notifiers.contract import CannotNotifyError, NotifierStatus
from rowbell._watch.notifiers.postgres_session import PostgresSession
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from rowbell._watch.listen_connection import ListenConnection
    from rowbell._watch.notifiers.contract import Receiver
    from rowbell._watch.timing import Timing

_REASONS: Final = {
    READ_ONLY_TRANSACTION: Reason.IN_RECOVERY,  # the answer of a standby to LISTEN and NOTIFY
    INSUFFICIENT_PRIVILEGE: Reason.NOT_PERMITTED,
    # A pooler has given the session to another server process.
    INVALID_SQL_STATEMENT_NAME: Reason.NOT_DELIVERED,
    # Parts of the schema are missing.
    UNDEFINED_FUNCTION: Reason.SCHEMA_OUTDATED,
    UNDEFINED_TABLE: Reason.SCHEMA_OUTDATED,
    INVALID_SCHEMA_NAME: Reason.SCHEMA_OUTDATED,
}


class PostgresNotifier:
    """Notifies by LISTEN on a dedicated connection.

    Args:
        listen_connection: Creates that connection.
        notify: Sends the notification that proves delivery, on a connection of the engine.
        timing: The watcher's times.
    """

    def __init__(
        self,
        listen_connection: ListenConnection,
        notify: Callable[[str], Awaitable[None]],
        timing: Timing,
    ) -> None:
        self._listen_connection = listen_connection
        self._notify = notify
        self._timing = timing
        self._session: PostgresSession | None = None
        self._before = NotifierStatus()

    @property
    def status(self) -> NotifierStatus:
        """The current status, with the counts of all its sessions."""
        if self._session is None:
            return self._before
        return NotifierStatus(
            self._session.evidence,
            self._before.notifications + self._session.notifications,
            self._before.ignored + self._session.ignored,
            self._session.queue_usage,
        )

    @asynccontextmanager
    async def session(self, receiver: Receiver) -> AsyncGenerator[PostgresSession]:
        """Connect, LISTEN, and prove that notifications arrive.

        Raises:
            CannotNotifyError: One of these fails, or the connection is lost in the block.
        """
        try:
            async with self._listen_connection.opened() as connection:
                calls = Calls(connection, self._timing.answer)
                calls.on_close(receiver.on_gap)
                session = self._session = PostgresSession(
                    calls, receiver, self._notify, self._timing
                )
                await session.begin()
                yield session
        except CannotNotifyError:
            raise
        except UntranslatableError as error:
            raise CannotNotifyError(Reason.UNSUPPORTED, str(error)) from error
        except Exception as error:
            raise CannotNotifyError(_reason(error), _described(error)) from error
        finally:
            counts = self.status
            self._before = NotifierStatus("", counts.notifications, counts.ignored)
            self._session = None


def _reason(error: Exception) -> Reason:
    """The reason that an error means, before or during a session."""
    if isinstance(error, UnreachableError):
        return Reason.CONNECTION_LOST if error.passes else Reason.CANNOT_LISTEN
    passes = Reason.CONNECTION_LOST if is_passing(error) else Reason.CANNOT_LISTEN
    return _REASONS.get(sqlstate_of(error), passes)


def _described(error: Exception) -> str:
    """The driver's own error, which SQLAlchemy's error contains."""
    cause: BaseException = error.reason if isinstance(error, UnreachableError) else error
    if isinstance(cause, DBAPIError) and cause.orig:
        cause = cause.orig.__cause__ or cause.orig
    return f"{type(cause).__name__}: {cause}".rstrip(": ")
