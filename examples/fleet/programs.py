"""The programs of the fleet: started, killed, stopped and continued."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
PASSWORDS = {"RELAY_PASSWORD": secrets.token_hex(8), "SHOP_PASSWORD": secrets.token_hex(8)}
_RELAY = "from rowbell.cli import main; main()"


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Program:
    """A process.

    Args:
        command: Its command.
        reads: Whether its standard output is read.
    """

    def __init__(self, *command: str, reads: bool = False) -> None:
        self._command = command
        self._reads = reads
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it."""
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, **PASSWORDS},
            stdout=asyncio.subprocess.PIPE if self._reads else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def freeze(self, seconds: float) -> None:
        """Stop it, and let it go on after that time."""
        self.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.send(signal.SIGCONT)


class Broker(Program):
    """A NATS server, with the rights of ``nats.conf``."""

    def __init__(self) -> None:
        found = shutil.which("nats-server", path=Path(sys.executable).parent)
        if found is None:
            raise RuntimeError("nats-server is not installed: make fleet")
        self.port = free_port()
        config = str(HERE / "nats.conf")
        super().__init__(found, "--addr", "127.0.0.1", "--port", str(self.port), "-c", config)

    def url(self, user: str) -> str:
        """Its URL for a user."""
        password = PASSWORDS[f"{user.upper()}_PASSWORD"]
        return f"nats://{user}:{password}@127.0.0.1:{self.port}"


class RelayProgram(Program):
    """``rowbell relay``, with an address that says how it is."""

    def __init__(self, url: str, nats: str) -> None:
        self.port = free_port()
        health = f"127.0.0.1:{self.port}"
        options = ("relay", "--url", url, "--nats", nats, "--health", health)
        super().__init__(sys.executable, "-c", _RELAY, *options)

    async def status(self) -> dict[str, Any] | None:
        """What it is doing; ``None`` if it does not answer."""

        def ask() -> dict[str, Any] | None:
            with contextlib.suppress(OSError, ValueError):
                address = f"http://127.0.0.1:{self.port}/status"
                with urllib.request.urlopen(address, timeout=0.3) as answer:
                    status: dict[str, Any] = json.load(answer)
                    return status
            return None

        return await asyncio.to_thread(ask)


class Pooler(Program):
    """PgBouncer in transaction mode."""

    def __init__(self, server: Path, user: str | None, folder: Path) -> None:
        self.port = free_port()
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\npostgres = host={server} user=postgres\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 10\n"
            "ignore_startup_parameters = extra_float_digits\n"
            "server_login_retry = 1\n"  # after a restart of the server, and not its 15 s
        )
        folder.chmod(0o755)
        super().__init__("pgbouncer", *(["-u", user] if user else []), str(config))

    @property
    def url(self) -> str:
        """The database through it."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"
