"""A TCP proxy in front of the server: it can cut connections, stall them and make them deaf."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import URL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Proxy:
    """Forwards connections to a server.

    Attributes:
        url: The server's URL through the proxy.
        deaf: Whether notifications are swallowed, as a transaction pooler swallows them.
        accepted: How many connections came.
    """

    def __init__(self, target: URL) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self.refusing = False
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
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def has_accepted(self, number: int) -> None:
        """Wait until so many connections have come."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: self.accepted >= number)

    def cut(self) -> None:
        """End all connections, at once and without a word."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Forward nothing any more, and close nothing."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        async with self._arrivals:
            self._arrivals.notify_all()
        if self.refusing:
            writer.transport.abort()
            return
        directory = self._target.query.get("host")
        if directory:
            path = f"{directory}/.s.PGSQL.{self._target.port or 5432}"
            back_reader, back_writer = await asyncio.open_unix_connection(path)
        else:
            back_reader, back_writer = await asyncio.open_connection(
                self._target.host, self._target.port or 5432
            )
        self._writers |= {writer, back_writer}
        for pump in (self._forward(reader, back_writer), self._answer(back_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Message by message, so that those of type A (NotificationResponse) can be dropped."""
        try:
            first = True
            while True:
                message = kind = await reader.readexactly(1)
                if not (first and kind in b"NS"):  # the answer to SSLRequest is that one byte
                    size = await reader.readexactly(4)
                    message += size + await reader.readexactly(int.from_bytes(size) - 4)
                first = False
                await self._open.wait()
                if not (self.deaf and kind == b"A"):
                    writer.write(message)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


@asynccontextmanager
async def proxy_to(target: URL) -> AsyncGenerator[Proxy]:
    proxy = Proxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
