"""A TCP proxy for the server. It can cut, stall, redirect, answer, and drop notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import URL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_SSL_REQUEST = b"\x04\xd2\x16\x2f"
_READY = b"Z\x00\x00\x00\x05I"


def error(sqlstate: str, message: str) -> bytes:
    """An ErrorResponse in the format of the server."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


@dataclass(eq=False)
class _Line:
    """One client, and its current server connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    startup: bytes = b""
    answers: asyncio.Task[None] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no answer from the server is outstanding."""

    async def message(self, reader: asyncio.StreamReader) -> bytes:
        """Read the server's next message."""
        kind = await reader.readexactly(1)
        if not self.startup:  # the answer to SSLRequest is a single byte
            return kind
        size = await reader.readexactly(4)
        return kind + size + await reader.readexactly(int.from_bytes(size) - 4)


class Proxy:
    """Forwards connections to a server.

    Attributes:
        url: The server's URL through the proxy.
        refusing: Whether new connections are closed at once.
        instead: The answer to a client's first message. Then the connection is closed.
        deaf: Whether notifications are dropped, like a transaction pooler drops them.
        refused_query: A query that contains this is answered with ``instead``, not forwarded.
        accepted: The number of accepted connections.
    """

    def __init__(self, target: URL) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: set[_Line] = set()
        self._parked: list[asyncio.StreamWriter] = []
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self.refusing = False
        self.instead = b""
        self.refused_query = b""
        self.deaf = False
        self.accepted = 0
        self.url = target
        self._arrivals = asyncio.Condition()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._target.set(host="127.0.0.1", port=port).difference_update_query(["host"])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for writer in self._parked:
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)  # transports close in the next turn of the event loop

    async def has_accepted(self, number: int) -> None:
        """Wait until that many connections were accepted."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: self.accepted >= number)

    def cut(self) -> None:
        """Abort all connections without a message."""
        for line in self._lines:
            line.client.transport.abort()
            line.server.transport.abort()

    def redirect(self, target: URL) -> None:
        """Forward new connections to another server."""
        self._target = target

    def stall(self) -> None:
        """Stop forwarding, but keep all connections open."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def swap(self) -> None:
        """Give each client another backend, like a pooler does between two transactions."""
        for line in list(self._lines):
            reader, server = await self._connect()
            self._parked += [line.server, server]
            server.write(line.startup)
            with suppress(asyncio.IncompleteReadError):  # the client has disconnected
                while await line.message(reader) != _READY:
                    pass
                await line.idle.wait()
                assert line.answers is not None
                line.answers.cancel()
                line.server, line.answers = server, self._spawn(self._answer(reader, line))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port, directory = self._target.port or 5432, self._target.query.get("host")
        if directory:
            return await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.host, port)

    def _spawn(self, pump: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(pump)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        async with self._arrivals:
            self._arrivals.notify_all()
        if self.refusing:
            writer.transport.abort()
            return
        back, server = await self._connect()
        line = _Line(writer, server)
        self._lines.add(line)
        line.answers = self._spawn(self._answer(back, line))
        self._spawn(self._forward(reader, line))

    async def _forward(self, reader: asyncio.StreamReader, line: _Line) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                if not line.startup and data[4:8] != _SSL_REQUEST:
                    line.startup = data
                    if self.instead and not self.refused_query:
                        line.client.write(self.instead)
                        break
                if self.refused_query and self.refused_query in data:
                    line.client.write(self.instead + _READY)
                    continue
                line.idle.clear()
                line.server.write(data)
                await line.server.drain()
        except OSError:
            pass
        finally:
            line.client.close()
            line.server.close()
            line.idle.set()
            self._lines.discard(line)

    async def _answer(self, reader: asyncio.StreamReader, line: _Line) -> None:
        """Forward single messages, so that type A (NotificationResponse) can be dropped."""
        try:
            while True:
                message = await line.message(reader)
                await self._open.wait()
                if not (self.deaf and message[:1] == b"A"):
                    line.client.write(message)
                    if message[:1] == b"Z":  # ReadyForQuery
                        line.idle.set()
                    await line.client.drain()
        except (OSError, asyncio.IncompleteReadError):
            line.client.close()


@asynccontextmanager
async def proxy_to(target: URL) -> AsyncGenerator[Proxy]:
    proxy = Proxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
