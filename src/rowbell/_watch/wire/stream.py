"""A unix socket: an ordered stream between a relay and the processes on its host.

Each message is preceded by its length, four bytes. Order, loss and death show in the stream itself.
Who may connect is decided by the rights on the socket's file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rowbell._watch.wire.transport import LinkError
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_LENGTH: Final = 4
_LONGEST: Final = 4 * 1024 * 1024
"""The longest message, in bytes."""

_UNSENT: Final = 8 * 1024 * 1024
"""Who leaves this many bytes unread is disconnected: it takes part again with a new session."""

_MUCH: Final = 256 * 1024
"""With this many bytes unread, hints wait."""

_LONGEST_PATH: Final = 103
"""What all systems allow, in bytes."""


class Frames(asyncio.Protocol):
    """One end of the stream.

    Args:
        received: Called with each message.
        closed: Called when the stream is closed, with the reason.
    """

    def __init__(self, received: Callable[[bytes], None], closed: Callable[[str], None]) -> None:
        self._received = received
        self._closed = closed
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_over = False

    def send(self, data: bytes) -> None:
        """Send a message. A receiver that does not read is disconnected."""
        if self._is_over or self._transport is None:
            return
        self._transport.write(len(data).to_bytes(_LENGTH, "big") + data)
        if self._transport.get_write_buffer_size() > _UNSENT:
            self._end("the other side does not read", abort=True)

    @property
    def is_busy(self) -> bool:
        """Whether much is still to be sent."""
        if self._is_over or self._transport is None:
            return False
        return self._transport.get_write_buffer_size() > _MUCH

    def close(self) -> None:
        """Close the stream, after what was sent."""
        self._is_over = True
        if self._transport is not None:
            self._transport.close()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream is open."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # for the type checker
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: pass on each message that is complete."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH and not self._is_over:
            length = int.from_bytes(self._buffer[:_LENGTH], "big")
            if length > _LONGEST:
                self._end("a message is too long", abort=True)
                return
            if len(self._buffer) < _LENGTH + length:
                return
            message = bytes(self._buffer[_LENGTH : _LENGTH + length])
            del self._buffer[: _LENGTH + length]
            self._received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is closed."""
        self._end(str(exc) if exc else "the other side has closed the stream")

    def _end(self, why: str, *, abort: bool = False) -> None:
        if abort and self._transport is not None:
            self._transport.abort()
        if not self._is_over:
            self._is_over = True
            self._closed(why)


class SocketNotifier:
    """A relay on the same host, reached by its unix socket.

    Args:
        path: The socket's path, as the relay was started with.

    Raises:
        InvalidArgumentError: The path is empty or too long for a socket.

    Example:
        .. code-block:: python

            async with rowbell.RowWatcher(engine, notifier=SocketNotifier("relay.sock")) as watcher:
                order = await watcher.wait_for_change(Order, 7, timeout=30)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = _checked(path)

    @asynccontextmanager
    async def link(
        self, session: str, received: Callable[[bytes], None], lost: Callable[[LinkError], None]
    ) -> AsyncGenerator[Frames]:
        """Connect to the relay.

        Raises:
            LinkError: Nothing answers there.
        """
        del session  # nobody else hears what is sent on this stream

        def make() -> Frames:
            return Frames(received, lambda why: lost(LinkError(f"{self}: {why}")))

        try:
            _, frames = await asyncio.get_running_loop().create_unix_connection(make, self._path)
        except OSError as error:
            forbidden = isinstance(error, PermissionError)
            why = f"{self}: {error.strerror or error}"
            raise LinkError(why, is_forbidden=forbidden) from error
        try:
            yield frames
        finally:
            frames.close()

    def __repr__(self) -> str:
        return f"SocketNotifier({self._path!r})"


class SocketPort:
    """The unix socket of a relay.

    Args:
        path: Where it is created. One that another relay has left is replaced.
        mode: The rights on it: who may write to it may connect. 0o660 by default.

    Raises:
        InvalidArgumentError: The path is empty or too long for a socket.
    """

    def __init__(self, path: str | os.PathLike[str], mode: int = 0o660) -> None:
        self._path = Path(_checked(path))
        self._mode = mode

    @property
    def name(self) -> str:
        """The host and the path."""
        return f"{socket.gethostname()}:{self._path.resolve()}"

    @asynccontextmanager
    async def connected(self, lost: Callable[[LinkError], None]) -> AsyncGenerator[None]:
        """Nothing is needed before the socket is created."""
        del lost
        yield

    @asynccontextmanager
    async def open(
        self, received: Callable[[Frames, bytes], None], gone: Callable[[Frames], None]
    ) -> AsyncGenerator[None]:
        """Accept connections during the block.

        Raises:
            LinkError: The socket cannot be created.
        """
        peers: set[Frames] = set()

        def make() -> Frames:
            def closed(_: str) -> None:
                peers.discard(peer)
                gone(peer)

            peer = Frames(lambda data: received(peer, data), closed)
            peers.add(peer)
            return peer

        listening, number = self._listening()
        server = await asyncio.get_running_loop().create_unix_server(make, sock=listening)
        try:
            yield
        finally:
            server.close()
            for peer in peers:
                peer.close()
            with suppress(OSError):
                if self._path.stat().st_ino == number:  # and not the socket of the next leader
                    self._path.unlink()

    def _listening(self) -> tuple[socket.socket, int]:
        """A socket that takes the place of one that is there, with its rights from the first on."""
        beside = self._path.with_name(f".{secrets.token_hex(4)}")
        if self._path.exists() and not self._path.is_socket():
            raise LinkError(f"{self._path} exists, and is not a socket")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o777)
            try:
                listening.bind(str(beside))
            finally:
                os.umask(before)
            listening.listen(1024)
            beside.chmod(self._mode)
            beside.rename(self._path)
        except OSError as error:
            listening.close()
            raise LinkError(f"{self._path}: {error.strerror or error}") from error
        return listening, self._path.stat().st_ino


def _checked(path: str | os.PathLike[str]) -> str:
    given = os.fspath(path)
    if not given or len(os.fsencode(given)) > _LONGEST_PATH:
        expected = f"the path of a unix socket, of 1 to {_LONGEST_PATH} bytes"
        raise InvalidArgumentError("path", path, expected)
    return given
