"""A server that speaks TLS, in front of one that does not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trustme
from sqlalchemy import URL

_SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"


@dataclass
class TlsServer:
    """The server.

    Attributes:
        url: Its URL; the certificate is for ``localhost``.
        encrypted: How many connections were encrypted.
        peers: The common names of the clients' certificates.
    """

    url: URL
    encrypted: int = 0
    peers: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def tls_in_front_of(target: URL, authority: trustme.CA) -> AsyncGenerator[TlsServer]:
    """Accept encrypted connections only, with a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["postgresql"])
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    tasks: set[asyncio.Task[None]] = set()
    server = TlsServer(target)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) != _SSL_REQUEST:
                return writer.close()
            writer.write(b"S")
            await writer.start_tls(context)
            server.encrypted += 1
            if certificate := writer.get_extra_info("peercert"):
                server.peers.append(dict(name[0] for name in certificate["subject"])["commonName"])
            path = f"{target.query['host']}/.s.PGSQL.{target.port or 5432}"
            back, there = await asyncio.open_unix_connection(path)
            for source, sink in ((reader, there), (back, writer)):
                task = asyncio.create_task(pump(source, sink))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        return None

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.url = target.set(host="localhost", port=port).difference_update_query(["host"])
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
