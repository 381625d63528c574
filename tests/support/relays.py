"""Relays, and watchers that listen through them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from rowbell._watch.notifiers.notification import Notification
from rowbell.relay import Relay, RelayState, RelayStatus, SocketNotifier

ELECTED: Final = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""The server process that holds the lock by which the relays of this database elect a leader."""


def leads(now: RelayStatus) -> bool:
    """Whether a relay leads."""
    return now.state is RelayState.LEADING


@asynccontextmanager
async def leading(
    engine: AsyncEngine, folder: Path, **relay: Any
) -> AsyncGenerator[tuple[Relay, SocketNotifier]]:
    """A relay that leads, and what its processes give to their watchers."""
    socket = folder / "relay"
    async with Relay(engine, socket=socket, **relay) as leader:
        await leader.reached(leads)
        yield leader, SocketNotifier(socket)


@asynccontextmanager
async def relayed(
    engine: AsyncEngine, folder: Path, **watcher: Any
) -> AsyncGenerator[tuple[Relay, RowWatcher]]:
    """A relay, and a watcher that listens through it. No safety re-read helps it."""
    arguments: dict[str, Any] = {"recheck": None, **watcher}
    async with leading(engine, folder) as (relay, notifier):
        async with RowWatcher(engine, notifier=notifier, **arguments) as opened:
            yield relay, opened


class Notes:
    """A receiver that notes what a notifier calls."""

    def __init__(self) -> None:
        self.gap = asyncio.Event()
        self._notifications: list[Notification] = []

    def on_notification(self, notification: Notification) -> None:
        self._notifications.append(notification)

    def on_gap(self) -> None:
        self.gap.set()

    def taken(self) -> list[Notification]:
        """The notifications since the last call."""
        taken, self._notifications = self._notifications, []
        return taken


class Program:
    """A process that a test stops, continues and ends.

    Args:
        arguments: What Python runs.
        environment: Variables that it gets, too.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._arguments = arguments
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process."""
        assert self._process is not None
        return self._process

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            env={**os.environ, **self._environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def said(self, what: str, *, by: str = "stderr") -> str:
        """Wait until it has printed a line with this; return the line."""
        stream = self.process.stderr if by == "stderr" else self.process.stdout
        assert stream is not None
        async with asyncio.timeout(20):
            while line := (await stream.readline()).decode():
                if what in line:
                    return line
        raise AssertionError(f"it ended, and did not say {what!r}")

    def stop(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


def relay_program(database: URL, *options: str) -> Program:
    """``rowbell relay``."""
    url = database.render_as_string(hide_password=False)
    command = "from rowbell.cli import main; main()"
    return Program("-c", command, "relay", "--url", url, *options)
