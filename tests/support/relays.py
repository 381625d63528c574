"""Relays, and watchers that listen through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from rowbell._watch.notifiers.notification import Notification
from rowbell.relay import Relay, RelayState, RelayStatus, SocketNotifier


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
    """A relay, and a watcher that listens through it."""
    async with leading(engine, folder) as (relay, notifier):
        async with RowWatcher(engine, notifier=notifier, **watcher) as opened:
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
