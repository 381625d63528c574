"""NATS: a broker between a relay and processes on any host. The extra ``nats`` has its client.

A process publishes to ``<root>.<application>.ask``, which the relay of that root is subscribed to,
and is subscribed to ``<root>.<application>.to.<hash of its session's ID>``. So the rights of users
in NATS can keep one application from the subjects of another, and everybody but the relay from
publishing to a process. Who may do that could arm its waits falsely, so both sides try it first.

Core NATS delivers at most once, and "subscribed" does not mean that anything will arrive. Nothing
here repairs that: the sequence of the messages and the pings show it, and the session ends.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rowbell._watch.wire.nats_connection import FORGERY, NatsConnection, NatsServers
from rowbell._watch.wire.transport import LinkError
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Sequence

    from nats.aio.msg import Msg

_FORGED_WITHIN: Final = 0.3
"""How long a forgery may travel, in seconds."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Link:
    """A process's way to the relay."""

    connection: NatsConnection
    subject: str
    reply: str

    def send(self, data: bytes) -> None:
        """Send a message."""
        self.connection.send(self.subject, data, self.reply)


class NatsNotifier:
    """A relay that is reached through NATS.

    Args:
        servers: The URL of a server, or of several: ``"nats://app:password@127.0.0.1:4222"``.
        application: The name of this application in subjects. The rights of its user in NATS
            should be limited to it.
        root: The first part of all subjects, as the relay has it.
        credentials: The path of a file with the user's credentials, instead of those in the URL.
        tls: The context for TLS.
        insecure: Accept a server on another host without TLS, and a user that may publish to its
            own processes, as a relay does.

    Raises:
        InvalidArgumentError: An argument is invalid.

    Example:
        .. code-block:: python

            notifier = NatsNotifier("nats://shop:secret@127.0.0.1:4222", application="shop")
            async with rowbell.RowWatcher(engine, notifier=notifier) as watcher:
                order = await watcher.wait_for_change(Order, 7, timeout=30)
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        application: str = "app",
        root: str = "rowbell",
        credentials: str | None = None,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
    ) -> None:
        self._servers = NatsServers.of(servers, credentials, tls, insecure=insecure)
        self._insecure = insecure
        self._subject = f"{_token('root', root)}.{_token('application', application)}"

    @asynccontextmanager
    async def link(
        self, session: str, received: Callable[[bytes], None], lost: Callable[[LinkError], None]
    ) -> AsyncGenerator[_Link]:
        """Connect to NATS.

        Raises:
            LinkError: That is not possible.
        """
        subject = f"{self._subject}.to.{session}"

        def on_message(message: Msg) -> None:
            if message.data == FORGERY:
                why = (
                    f"its user in NATS may publish to {subject!r}, so that any process of it can "
                    "pretend to be the relay: limit its rights, or set insecure=True"
                )
                lost(LinkError(why, is_forbidden=True))
            elif not message.data:  # the server's own answer to what nobody receives
                lost(LinkError(f"no relay listens to {self._subject}.ask at {self._servers}"))
            else:
                received(message.data)

        async with NatsConnection(self._servers, lost).opened() as connection:
            await connection.subscribe(subject, on_message)
            if not self._insecure:
                await connection.try_to_forge(subject)
            yield _Link(connection, f"{self._subject}.ask", subject)

    def __repr__(self) -> str:
        return f"NatsNotifier({str(self._servers)!r})"


@dataclass(frozen=True, slots=True)
class NatsPeer:
    """A relay's way to one process.

    Attributes:
        connection: The relay's connection.
        subject: The subject of the process.
    """

    connection: NatsConnection
    subject: str

    @property
    def is_busy(self) -> bool:
        """Whether much is still to be sent, to any process."""
        return self.connection.is_busy

    def send(self, data: bytes) -> None:
        """Send a message."""
        self.connection.send(self.subject, data)


class NatsPort:
    """The subjects of a relay.

    Args:
        servers: Where the servers are.
        root: The first part of all subjects.
        insecure: Run although others may pretend to be a process.

    Raises:
        InvalidArgumentError: The root cannot be a part of a subject.
    """

    def __init__(self, servers: NatsServers, *, root: str, insecure: bool) -> None:
        self._servers = servers
        self._root = _token("root", root)
        self._insecure = insecure
        self._connection: NatsConnection | None = None

    @property
    def name(self) -> str:
        """The root: all relays that have it use the same subjects."""
        return f"nats:{self._root}"

    @asynccontextmanager
    async def connected(self, lost: Callable[[LinkError], None]) -> AsyncGenerator[None]:
        """Be connected to NATS during the block.

        Raises:
            LinkError: That is not possible, or anybody may use the relay's subjects.
        """
        async with NatsConnection(self._servers, lost).opened() as connection:
            if not self._insecure:
                await self._refuse_forgeries()
            self._connection = connection
            try:
                yield
            finally:
                self._connection = None

    @asynccontextmanager
    async def open(
        self, received: Callable[[NatsPeer, bytes], None], gone: Callable[[NatsPeer], None]
    ) -> AsyncGenerator[None]:
        """Receive the messages of processes during the block.

        Raises:
            LinkError: That is not possible.
        """
        del gone  # nothing tells: a process that does not ping is forgotten
        connection = self._connection
        assert connection is not None  # noqa: S101  # connected() is around it

        def on_message(message: Msg) -> None:
            own = message.subject.removesuffix("ask") + "to."
            if message.reply.startswith(own):  # and not a process of another application
                received(NatsPeer(connection, message.reply), message.data)

        await connection.subscribe(f"{self._root}.*.ask", on_message)
        yield

    async def _refuse_forgeries(self) -> None:
        """Refuse servers on which those who are no processes can write to the relay.

        Raises:
            LinkError: The relay's own user can, or somebody without a user.
        """
        forged: list[str] = []
        lost: list[LinkError] = []
        async with NatsConnection(self._servers, lost.append).opened() as hearing:
            await hearing.subscribe(f"{self._root}.*.ask", lambda one: forged.append(one.subject))
            for who, servers in (("its own user", self._servers), ("nobody", self._servers.bare)):
                subject = f"{self._root}.forged-{secrets.token_hex(8)}.ask"
                with suppress(LinkError):
                    async with NatsConnection(servers, lost.append).opened() as writing:
                        await writing.try_to_forge(subject)
                        await asyncio.sleep(_FORGED_WITHIN)
                if subject in forged:
                    why = (
                        f"{self._servers}: {who} may publish to {subject!r}, so rights are not "
                        "limited: give each user its own, or set insecure=True"
                    )
                    raise LinkError(why, is_forbidden=True)
        if any(error.is_forbidden for error in lost):
            raise lost[0]


def _token(argument: str, value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise InvalidArgumentError(argument, value, "1 to 64 letters, digits, - and _")
    return value
