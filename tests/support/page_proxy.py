"""A proxy as in front of most applications: while the server is down, it answers 502."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

_BAD_GATEWAY: Final = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class PageProxy:
    """Passes on what it gets.

    Args:
        url: The server.

    Attributes:
        url: Where the proxy is.
        refused: Set when it has answered 502.
    """

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port = target.hostname, target.port
        self.url = ""
        self.refused = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reading: StreamReader, writing: StreamWriter) -> None:
        try:
            to_read, to_write = await asyncio.open_connection(self._host, self._port)
        except OSError:
            await reading.readuntil(b"\r\n\r\n")
            writing.write(_BAD_GATEWAY)
            self.refused.set()
        else:
            ways = [_pass_on(reading, to_write), _pass_on(to_read, writing)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            to_write.close()
        with suppress(OSError):
            writing.close()
            await writing.wait_closed()


async def _pass_on(reading: StreamReader, writing: StreamWriter) -> None:
    with suppress(OSError):
        while data := await reading.read(65536):
            writing.write(data)
            await writing.drain()
