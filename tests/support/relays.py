"""Relays, and watchers that listen through them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
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
        async with RowWatcher(engine, mode="listen", notifier=notifier, **watcher) as opened:
            yield relay, opened
