"""The example app, served in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import httpx
from sqlalchemy import URL


class Site:
    """The app on a port.

    Args:
        database: Its database.
        port: Its port.
        folder: Where the app is.

    Attributes:
        url: Where it is.
    """

    def __init__(self, database: URL, port: int, folder: Path) -> None:
        self.database = database
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._folder = folder
        self._processes: list[Process] = []

    async def start(self) -> None:
        """Start the server, and wait until it answers."""
        await self._run(
            *("-m", "uvicorn", "app:app", "--app-dir", str(self._folder)),
            *("--port", str(self._port), "--timeout-graceful-shutdown", "5"),
        )
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    await http.get(f"{self.url}/api/status")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def start_worker(self) -> None:
        """Start the worker, too."""
        await self._run(str(self._folder / "worker.py"))

    async def _run(self, *arguments: str) -> None:
        environment = os.environ | {
            "DATABASE_URL": self.database.render_as_string(hide_password=False)
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=environment, stdout=DEVNULL, stderr=DEVNULL
        )
        self._processes.append(process)

    async def stop(self) -> None:
        """End all processes, as a deployment does."""
        for process in self._processes:
            process.terminate()
            await process.wait()
        self._processes.clear()
