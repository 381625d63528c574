"""The event loop that waits need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def running_loop() -> AbstractEventLoop:
    """The running asyncio event loop.

    Raises:
        WatcherStateError: No event loop is running, or one of another library.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WatcherStateError(
            "waiting needs a running asyncio event loop, as SQLAlchemy's asyncio API does: use "
            "asyncio.run(), or the backend 'asyncio' of anyio"
        ) from None
