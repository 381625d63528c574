"""A process that is told to end, with streams open: they end with a last event, and it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from support.paths import ROOT

LONG = 60
"""How long these servers would wait for their responses, in seconds."""

SOON = 15
"""More than enough for a process that does not wait for them."""

APP = "support.streaming_app:app"
UVICORN = ["uvicorn", APP, "--port", "{port}", "--timeout-graceful-shutdown", str(LONG)]
GUNICORN = ["gunicorn", APP, "--bind", "127.0.0.1:{port}", "--graceful-timeout", str(LONG)]
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn, two workers": [*UVICORN, "--workers", "2"],
    "uvicorn, reload": [*UVICORN, "--reload", "--reload-dir", str(ROOT / "examples")],
    "gunicorn": [*GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "2"],
}

CANCELLING = "ERROR:    Cancel {} running task(s), timeout graceful shutdown exceeded"
CANCELLED = "ERROR:    Exception in ASGI application: the response was cancelled"
"""uvicorn's lines in the log: one for all, and one for each response."""


@dataclass
class Server:
    """A server in a process of its own.

    Attributes:
        process: The process.
        port: Its port.
        log: All that it has written.
    """

    process: Process
    port: int
    log: list[str] = field(default_factory=list[str])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def keep_log(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.log.append(line.decode().rstrip())

    async def ready(self) -> None:
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    await http.get(f"{self.url}/pid")
                except httpx.TransportError:
                    assert self.process.returncode is None, "\n".join(self.log)
                    await asyncio.sleep(0.05)
                else:
                    return

    async def ended(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it is gone. A terminal sends SIGINT to all its processes."""
        if how is signal.SIGINT:
            os.killpg(self.process.pid, how)
        else:
            os.kill(self.process.pid, how)
        async with asyncio.timeout(SOON):
            await self.process.wait()


@asynccontextmanager
async def running(command: list[str], database: URL) -> AsyncGenerator[Server]:
    """The server, which listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "DATABASE_URL": database.render_as_string(hide_password=False),
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
    }
    arguments = [argument.format(port=port) for argument in command]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        env=environment,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=ROOT,
        start_new_session=True,
    )
    server = Server(process, port)
    reading = asyncio.create_task(server.keep_log())
    try:
        await server.ready()
        yield server
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading


@dataclass
class Client:
    """A browser's connection, without the browser.

    Attributes:
        received: All that has come.
    """

    reading: asyncio.StreamReader
    writing: asyncio.StreamWriter
    received: bytes = b""

    async def rest(self) -> bytes:
        """Read until the connection ends."""
        self.received += await self.reading.read()
        self.writing.close()
        return self.received


async def opened(server: Server, path: str = "/events", until: bytes = b'"n":0') -> Client:
    """A client that has got its first state."""
    reading, writing = await asyncio.open_connection("127.0.0.1", server.port)
    writing.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    client = Client(reading, writing)
    while until and until not in client.received:
        line = await reading.readline()
        assert line, client.received
        client.received += line
    return client


def check_last_event(received: bytes) -> None:
    """The last event names the reason, and when to come back."""
    assert b'event: end\ndata: {"reason":"closed"}\nretry: ' in received
    retry = int(received.rsplit(b"retry: ", 1)[1].split(b"\n")[0])
    assert 1000 <= retry <= 5000


def errors(log: list[str]) -> list[str]:
    return [line for line in log if "Traceback" in line or "ERROR" in line or "Error" in line]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", SERVERS)
async def test_streams_end_with_a_last_event_and_the_server_is_gone(
    orders: AsyncEngine, database: URL, name: str, how: signal.Signals
) -> None:
    async with running(SERVERS[name], database) as server:
        clients = [await opened(server) for _ in range(20)]
        await server.ended(how)
        for client in clients:
            check_last_event(await client.rest())
    assert errors(server.log) == []


async def test_a_thousand_streams_end_at_once(orders: AsyncEngine, database: URL) -> None:
    async with running(UVICORN, database) as server:
        clients = await asyncio.gather(*(opened(server) for _ in range(1000)))
        rest = asyncio.gather(*(client.rest() for client in clients))
        await server.ended()
        for received in await rest:
            check_last_event(received)
    assert errors(server.log) == []


async def test_a_long_poll_ends_with_503(orders: AsyncEngine, database: URL) -> None:
    async with running(UVICORN, database) as server, httpx.AsyncClient() as http:
        tag = (await http.get(f"{server.url}/next")).headers["ETag"]
        known = {"If-None-Match": tag}
        asked = asyncio.create_task(http.get(f"{server.url}/next", headers=known, timeout=LONG))
        client = await opened(server)  # so the request before it has reached the server
        await server.ended()
        assert (await asked).status_code == 503
        await client.rest()
    assert errors(server.log) == []


async def test_a_client_that_reads_nothing_needs_the_servers_own_limit(
    orders: AsyncEngine, database: URL
) -> None:
    """The others get their last event at once; that one costs two lines in the log."""
    command = [*UVICORN[:-1], "2"]
    async with running(command, database) as server:
        deaf = await opened(server, "/large", b"data: x")
        client = await opened(server)
        await asyncio.sleep(0.5)  # until the buffers are full: nothing says when
        ending = asyncio.create_task(server.ended())
        check_last_event(await client.rest())
        await ending
        deaf.writing.close()
    assert errors(server.log) == [CANCELLING.format(1), CANCELLED]


async def test_without_a_signal_the_servers_own_limit_ends_the_streams(
    orders: AsyncEngine, database: URL
) -> None:
    """As with uvicorn's ``--limit-max-requests``, which says nothing to the application."""
    command = [*UVICORN[:-1], "1", "--limit-max-requests", "20"]
    async with running(command, database) as server, httpx.AsyncClient() as http:
        clients = [await opened(server) for _ in range(3)]
        for _ in range(20):
            await http.get(f"{server.url}/pid")
        async with asyncio.timeout(SOON):
            await server.process.wait()
        for client in clients:
            await client.rest()
    assert errors(server.log) == [CANCELLING.format(3), *[CANCELLED] * 3]


async def test_a_server_whose_signals_are_its_own_calls_close_streams(
    orders: AsyncEngine, database: URL
) -> None:
    """Hypercorn handles signals in its event loop."""
    command = ["hypercorn", APP, "--bind", "127.0.0.1:{port}", "--graceful-timeout", "5"]
    async with running(command, database) as server, httpx.AsyncClient() as http:
        clients = [await opened(server) for _ in range(20)]
        await http.post(f"{server.url}/close-streams")
        for client in clients:
            client.received += await client.reading.readuntil(b"retry: ")
            client.received += await client.reading.readuntil(b"\n")
            check_last_event(client.received)
            client.writing.close()
        assert (await http.get(f"{server.url}/events")).status_code == 503
        await server.ended()
    assert "Traceback" not in "\n".join(server.log)
