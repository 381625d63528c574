"""The notifier that uses a relay: a process that listens for many others.

The process needs no connection of its own to the server: it introduces itself through the engine,
and its reads go where they always go.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from sqlalchemy import Connection, text

from rowbell._watch.database.answers import Server
from rowbell._watch.database.calls import IDENTIFY
from rowbell._watch.notifiers.contract import CannotNotifyError, NotifierStatus
from rowbell._watch.notifiers.names import Names
from rowbell._watch.notifiers.refusals import described, reason_of, refuse_unsuitable
from rowbell._watch.notifiers.relayed_session import RelayedSession
from rowbell._watch.reasons import Reason
from rowbell._watch.wire.rhythm import Rhythm
from rowbell._watch.wire.transport import LinkError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from rowbell._watch.connections import Connections
    from rowbell._watch.notifiers.contract import Receiver
    from rowbell._watch.timing import Timing
    from rowbell._watch.wire.transport import Notifies

_INTRODUCE: Final = text("SELECT rowbell.introduce(:session, :channel)")


class RelayedNotifier:
    """Notifies through a relay.

    Args:
        notifies: Where the relay is.
        connections: The connections that the watcher's reads use.
        timing: The watcher's times.
        rhythm: The times between the process and the relay.
    """

    def __init__(
        self,
        notifies: Notifies,
        connections: Connections,
        timing: Timing,
        rhythm: Rhythm | None = None,
    ) -> None:
        self._notifies = notifies
        self._connections = connections
        self._timing = timing
        self._rhythm = rhythm or Rhythm()
        self._session: RelayedSession | None = None
        self._notifications = 0
        self._term = 0
        self._term_ended = 0.0
        self.polling: float = 0.0
        self.longest_pause: float = min(self._rhythm.pause, timing.backoff_limit)

    @property
    def status(self) -> NotifierStatus:
        """The current status, with the counts of all its sessions."""
        if self._session is None:
            return NotifierStatus("", self._notifications)
        notifications = self._notifications + self._session.notifications
        return NotifierStatus(self._session.evidence, notifications)

    @asynccontextmanager
    async def session(self, receiver: Receiver) -> AsyncGenerator[RelayedSession]:
        """Begin a session at the relay, and prove that notifications arrive.

        Raises:
            CannotNotifyError: That fails, or the session is lost in the block.
        """
        session_id = secrets.token_hex(16)
        public = hashlib.sha256(session_id.encode()).hexdigest()
        session = RelayedSession(
            session_id, receiver, Names(self._connections), self._timing, self._rhythm
        )

        def lost(error: LinkError) -> None:
            session.conversation.lose(_refused(error))

        async def introduce(channel: str) -> None:
            self._refuse_former(session)
            with anyio.fail_after(self._timing.answer):
                refuse_unsuitable(await self._connections.run(_identify))
                parameters = {"session": public, "channel": channel}
                await self._connections.run(Connection.execute, _INTRODUCE, parameters)

        try:
            async with self._notifies.link(public, session.conversation.receive, lost) as link:
                await session.begin(link, introduce)
                session.evidence = (
                    f"the relay of term {session.conversation.term} has received a notification "
                    "that this process sent through its engine"
                )
                self._session = session
                yield session
        except CannotNotifyError:
            raise
        except LinkError as error:
            raise _refused(error) from error
        except Exception as error:
            raise CannotNotifyError(reason_of(error), described(error)) from error
        finally:
            session.conversation.close()
            self._session = None
            self._notifications += session.notifications
            self.polling = session.conversation.polling or self.polling
            if session.evidence:
                self._term = session.conversation.term
                self._term_ended = asyncio.get_running_loop().time()

    def _refuse_former(self, session: RelayedSession) -> None:
        """Refuse a relay that led before the one that was heard a short time ago."""
        since = asyncio.get_running_loop().time() - self._term_ended
        term = session.conversation.term
        if term < self._term and since < self._rhythm.fresh:
            why = f"a relay of term {term} answered, and term {self._term} has begun"
            raise CannotNotifyError(Reason.CONNECTION_LOST, why)


def _refused(error: LinkError) -> CannotNotifyError:
    reason = Reason.NOT_PERMITTED if error.is_forbidden else Reason.CONNECTION_LOST
    return CannotNotifyError(reason, error.detail)


def _identify(connection: Connection) -> Server:
    """The server that the engine reaches."""
    row = connection.execute(text(IDENTIFY)).one()
    pid, recovering, database, started, installed = row
    schema = None
    if installed:
        version, compatible_with = connection.execute(
            text("SELECT version, compatible_with FROM rowbell.schema_version()")
        ).one()
        schema = (version, compatible_with)
    return Server(pid, recovering, database, started, schema)
