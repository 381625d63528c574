"""A connection to NATS, made and thrown away.

The client would connect again by itself, and then deliver what is old. So a connection that is lost
is not revived: the session ends with it. Nothing is left of the client after its end.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from nats.aio.client import Client
from nats.errors import AuthorizationError, Error, SlowConsumerError

from rowbell._cancellation import complete
from rowbell._watch.wire.transport import LinkError
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Sequence

    from nats.aio.msg import Msg

_CONNECT: Final = 5
"""The longest time to connect, in seconds. The client's own limit does not hold in all cases."""

_PENDING: Final = 10_000
"""Messages that wait in the client. One more means that this process cannot follow."""

_UNSENT: Final = 100_000
"""Messages that wait to be sent. One more means that the server does not take them."""

_MUCH: Final = 5_000
"""With this many messages that wait to be sent, hints wait."""

FORGERY: Final = b"forgery"
"""What is published to find out whether it may be."""


@dataclass(frozen=True, slots=True)
class NatsServers:
    """Where the servers are, and who connects there.

    Attributes:
        urls: Their URLs.
        credentials: The path of a file with the user's credentials; ``None`` if the URL has them.
        tls: The context for TLS; ``None`` for the defaults of Python.
    """

    urls: tuple[str, ...]
    credentials: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def of(
        cls,
        urls: str | Sequence[str],
        credentials: str | None,
        tls: ssl.SSLContext | None,
        *,
        insecure: bool,
    ) -> NatsServers:
        """Servers that were given as arguments.

        Raises:
            InvalidArgumentError: One is no URL of NATS, or is not on this host and without TLS.
        """
        named = (urls,) if isinstance(urls, str) else tuple(urls)
        shown = [_without_password(url) for url in named]
        if not named or any(urlsplit(url).scheme not in {"nats", "tls"} for url in named):
            raise InvalidArgumentError(
                "nats", shown, "URLs like nats://host:4222 or tls://host:4222"
            )
        if not insecure and tls is None and not all(map(_is_private, named)):
            expected = "URLs like tls://host:4222, or tls=…, or insecure=True on a private network"
            raise InvalidArgumentError("nats", shown, expected)
        return cls(named, credentials, tls)

    @property
    def bare(self) -> NatsServers:
        """The same servers, for somebody who has no user there."""
        return NatsServers(tuple(map(_without_password, self.urls)), None, self.tls)

    def __str__(self) -> str:
        return ", ".join(map(_without_password, self.urls))


class NatsConnection:
    """One connection to NATS, which is not revived if it is lost.

    Args:
        servers: Where.
        lost: Called when it is lost.
    """

    def __init__(self, servers: NatsServers, lost: Callable[[LinkError], None]) -> None:
        self._servers = servers
        self._lost = lost
        self._client = Client()
        self._unsent: asyncio.Queue[tuple[str, bytes, str]] = asyncio.Queue(_UNSENT)
        self._tried = ""
        self._error: Exception | None = None
        self._is_connected = False
        self._is_over = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[NatsConnection]:
        """Be connected during the block.

        Raises:
            LinkError: That is not possible.
        """
        sending: asyncio.Task[None] | None = None
        try:
            await self._connect()
            sending = asyncio.create_task(self._send_all(), name="rowbell sends to NATS")
            yield self
        finally:
            self._is_over = True
            await complete(self._close(sending))

    async def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._servers.credentials is not None:
            options["user_credentials"] = self._servers.credentials
        if self._servers.tls is not None:
            options["tls"] = self._servers.tls
        try:
            with anyio.fail_after(_CONNECT):
                await self._client.connect(
                    list(self._servers.urls),
                    name="rowbell",
                    allow_reconnect=False,
                    connect_timeout=_CONNECT,
                    max_reconnect_attempts=1,  # of each server, although it must not reconnect
                    reconnect_time_wait=0,
                    ping_interval=1,
                    max_outstanding_pings=2,
                    error_cb=self._failed,
                    closed_cb=self._closed,
                    disconnected_cb=self._closed,
                    **options,
                )
        except TimeoutError as error:
            why = self._error or f"no answer within {_CONNECT:g}s"
            raise LinkError(f"{self._servers}: {why}") from error
        except (Error, OSError, ValueError) as error:
            forbidden = isinstance(error, AuthorizationError) or "uthorization" in str(error)
            why = self._error or error
            raise LinkError(f"{self._servers}: {why}", is_forbidden=forbidden) from error
        self._is_connected = True

    async def _close(self, sending: asyncio.Task[None] | None) -> None:
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])
        with suppress(Exception):  # the server may be gone
            await self._client.close()
        for _ in range(3):  # the client cancels its tasks, and does not wait for their end
            await asyncio.sleep(0)

    async def _send_all(self) -> None:
        while True:
            subject, data, reply = await self._unsent.get()
            try:
                await self._client.publish(subject, data, reply)
            except (Error, OSError) as error:
                self._end(LinkError(f"{self._servers}: {error}"))
            self._unsent.task_done()

    async def subscribe(self, subject: str, received: Callable[[Msg], None]) -> None:
        """Receive what is published to a subject. A connection has one subscription only.

        The client has a task and a queue for each subscription: a second one would overtake.
        """

        async def on_message(message: Msg) -> None:  # the client wants it so
            if not self._is_over:
                received(message)

        await self._client.subscribe(subject, cb=on_message, pending_msgs_limit=_PENDING)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message, after those before it."""
        if self._is_over:
            return
        try:
            self._unsent.put_nowait((subject, data, reply))
        except asyncio.QueueFull:
            self._end(LinkError(f"{self._servers}: the server does not take messages"))

    @property
    def is_busy(self) -> bool:
        """Whether much is still to be sent."""
        return self._unsent.qsize() > _MUCH

    async def try_to_forge(self, subject: str) -> None:
        """Publish what this user should have no right to publish."""
        self._tried = subject
        self.send(subject, FORGERY)
        await self._unsent.join()
        with suppress(Error, TimeoutError):
            await self._client.flush(1)

    def _end(self, error: LinkError) -> None:
        if not self._is_over:
            self._is_over = True
            self._lost(error)

    # -- what the client calls

    async def _failed(self, error: Exception) -> None:  # the client wants it so
        # A subscription that is not permitted returns without an error: it comes here.
        if not self._is_connected:
            self._error = error
            return
        why = str(error)
        forbidden = "permissions violation" in why.lower()
        if forbidden and self._tried and f'"{self._tried}"' in why:
            return  # it should be so
        if isinstance(error, SlowConsumerError):
            why = f"this process cannot follow: more than {_PENDING} messages wait"
        self._end(LinkError(f"{self._servers}: {why}", is_forbidden=forbidden))

    async def _closed(self) -> None:  # the client wants it so
        self._end(LinkError(f"{self._servers}: the connection is closed"))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_private(url: str) -> bool:
    """Whether nobody else can read what is sent there."""
    parts = urlsplit(url)
    if parts.scheme == "tls":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
