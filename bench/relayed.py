"""Ways to wait through a relay, each with the relay, and the broker, as processes of their own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

import rowbell
from rowbell.relay import NatsNotifier, SocketNotifier
from table import libpq_url, model
from ways import Notified, Wait, Way, install, notify_always, with_orm

SOCKET = "rowbell: relay, unix socket"
NATS = "rowbell: relay, NATS"
BARE_HOP = "by hand: LISTEN, NATS, ORM"

RELAY = "from rowbell.cli import main; main()"

FORWARD = """
import asyncio, sys
import asyncpg, nats

async def main(dsn, url, channel):
    client = await nats.connect(url)
    connection = await asyncpg.connect(dsn)
    sent = set()

    def forward(_, pid, channel, payload):
        task = asyncio.ensure_future(client.publish(channel, payload.encode()))
        sent.add(task)
        task.add_done_callback(sent.discard)

    await connection.add_listener(channel, forward)
    print("leading", file=sys.stderr, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def program(*command: str, until: bytes) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A program that has printed this to stderr. It is ended with the block."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while until not in (line := await process.stderr.readline()):
                if not line:
                    raise RuntimeError(f"{command} has ended")
        reading = asyncio.create_task(process.stderr.read())  # so that it never has to wait
        yield process
        reading.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def broker() -> AsyncGenerator[tuple[str, int]]:
    """A NATS server: its URL, and its process ID."""
    found = shutil.which("nats-server", path=Path(sys.executable).parent)
    if found is None:
        raise RuntimeError("nats-server is not installed: make bench")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (found, "--addr", "127.0.0.1", "--port", str(port))
    async with program(*command, until=b"Server is ready") as process:
        yield f"nats://127.0.0.1:{port}", process.pid


@asynccontextmanager
async def relay(
    url: URL, through: str, *options: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """``rowbell relay`` for a database, through NATS or a unix socket; it leads."""
    where = ("--nats", through, "--insecure") if is_nats(through) else ("--socket", through)
    command = (sys.executable, "-c", RELAY, "relay", "--url", libpq_url(url), *where, *options)
    async with program(*command, until=b": leading") as process:
        yield process


def notifier(through: str) -> SocketNotifier | NatsNotifier:
    """What a process of that relay listens through."""
    return NatsNotifier(through, insecure=True) if is_nats(through) else SocketNotifier(through)


def is_nats(through: str) -> bool:
    """Whether that is the URL of a NATS server, or else the path of a socket."""
    return through.startswith("nats://")


def relayed_way(through: str) -> Way:
    """A watcher that listens through a relay that runs."""

    @asynccontextmanager
    async def way(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        async with rowbell.RowWatcher(engine, mode="listen", notifier=notifier(through)) as watcher:

            async def wait(key: int, seen: int) -> int:
                return (await watcher.wait_for_change(model(table), key, since={"n": seen})).n

            yield wait

    return way


@asynccontextmanager
async def by_socket(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Through a unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/relay"
        await install(engine, table)
        async with relay(engine.url, path), relayed_way(path)(engine, table) as wait:
            yield wait


@asynccontextmanager
async def by_nats(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Through NATS."""
    await install(engine, table)
    async with (
        broker() as (url, _),
        relay(engine.url, url),
        relayed_way(url)(engine, table) as wait,
    ):
        yield wait


@asynccontextmanager
async def hop(engine: AsyncEngine, table: str) -> AsyncGenerator[Notified]:
    """A program that forwards the usual trigger's notifications to NATS, and a subscriber."""
    await notify_always(engine, table)
    notified = Notified()

    async def receive(message: Any) -> None:
        notified.set(message.data.decode())

    async with broker() as (url, _):
        forward = (sys.executable, "-c", FORWARD, libpq_url(engine.url), url, table)
        async with program(*forward, until=b"leading"):
            client = await nats.connect(url)
            await client.subscribe(table, cb=receive)
            await client.flush()
            yield notified
            await client.close()


RELAYED: dict[str, Way] = {
    BARE_HOP: with_orm(hop),
    SOCKET: by_socket,
    NATS: by_nats,
}
"""The ways that go through another process."""
