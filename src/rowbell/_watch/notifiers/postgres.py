"""The notifier that uses PostgreSQL's LISTEN. It connects, and says why it cannot notify."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rowbell._libpq import UntranslatableError
from rowbell._watch.database.calls import Calls
from rowbell._watch.notifiers.contract import CannotNotifyError, NotifierStatus
from rowbell._watch.notifiers.postgres_session import PostgresSession
from rowbell._watch.notifiers.refusals import described, reason_of
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from rowbell._watch.listen_connection import ListenConnection
    from rowbell._watch.notifiers.contract import Receiver
    from rowbell._watch.timing import Timing


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
        self.longest_pause: float = timing.backoff_limit
        self.polling: float = 0.0

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
            raise CannotNotifyError(reason_of(error), described(error)) from error
        finally:
            counts = self.status
            self._before = NotifierStatus("", counts.notifications, counts.ignored)
            self._session = None
