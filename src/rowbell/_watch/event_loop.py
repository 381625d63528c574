"""The event loop that waits need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def running_loop() -> AbstractEventLoop:
    """The running event loop of asyncio.

    Raises:
        WatcherStateError: There is none, or another library's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WatcherStateError(
            "waiting needs a running event loop of asyncio, as SQLAlchemy's asyncio API does: use "
            "asyncio.run(), and with anyio or trio the backend 'asyncio'"
        ) from None
