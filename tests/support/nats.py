"""NATS servers: alone, or in a cluster. A test can stop, kill and start them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from support.paths import ROOT
from support.ports import free_port

SHIPPED: Final = ROOT / "examples" / "fleet" / "nats.conf"
PASSWORDS: Final = {"RELAY_PASSWORD": "for-relay", "SHOP_PASSWORD": "for-shop"}


class NatsServer:
    """A server.

    Args:
        config: The path of its configuration.
        options: Other options of ``nats-server``.
        port: Its port; by default the server chooses one when it is first started.
    """

    def __init__(self, config: Path | None = None, *options: str, port: int | None = None) -> None:
        self.port = port or -1
        self._options = [*options, *([] if config is None else ["--config", str(config)])]
        self._process: asyncio.subprocess.Process | None = None

    def url(self, user: str = "") -> str:
        """Its URL, for one of the users of the shipped configuration, or for nobody."""
        password = {"relay": ":for-relay@", "shop": ":for-shop@"}.get(user, "")
        return f"nats://{user}{password}127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        program = shutil.which("nats-server", path=Path(sys.executable).parent)
        assert program is not None
        with tempfile.TemporaryDirectory() as folder:
            self._process = await asyncio.create_subprocess_exec(
                program,
                *("--addr", "127.0.0.1", "--port", str(self.port), *self._options),
                *("--ports_file_dir", folder),
                env={**os.environ, **PASSWORDS},
                stderr=asyncio.subprocess.DEVNULL,
            )
            ports = Path(folder) / f"nats-server_{self._process.pid}.ports"
            async with asyncio.timeout(20):
                while not (written := await asyncio.to_thread(_read, ports)):
                    assert self._process.returncode is None
                    await asyncio.sleep(0.02)
        self.port = int(json.loads(written)["nats"][0].rpartition(":")[2])

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def stop(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _read(ports: Path) -> str:
    with suppress(OSError):
        return ports.read_text()
    return ""


@asynccontextmanager
async def nats_server(
    config: Path | None = SHIPPED, *options: str, port: int | None = None
) -> AsyncGenerator[NatsServer]:
    """A running server, with the shipped configuration."""
    server = NatsServer(config, *options, port=port)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def cluster(size: int = 3) -> AsyncGenerator[list[NatsServer]]:
    """Servers that are routed to each other."""
    routes = [free_port() for _ in range(size)]
    urls = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                nats_server(
                    SHIPPED,
                    *("--cluster", f"nats://127.0.0.1:{port}", "--cluster_name", "tests"),
                    *("--routes", urls),
                )
            )
            for port in routes
        ]
