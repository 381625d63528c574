"""Fixtures for the tests of relays."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import RowWatcher

Watched = Callable[..., Any]


@pytest.fixture
async def processes() -> AsyncIterator[Watched]:
    """Opens watchers as other processes have them: each with its own engine."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def engine(url: URL) -> AsyncGenerator[AsyncEngine]:
            made = create_async_engine(url)
            yield made
            await made.dispose()

        async def watched(url: URL, notifier: Any, **more: Any) -> RowWatcher:
            made = await stack.enter_async_context(engine(url))
            watcher = RowWatcher(made, notifier=notifier, recheck=None, **more)
            return await stack.enter_async_context(watcher)

        yield watched
