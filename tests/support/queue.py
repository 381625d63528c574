"""The server's notification queue."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


@asynccontextmanager
async def queue_held(engine: AsyncEngine) -> AsyncGenerator[None]:
    """A session listens and stays in a transaction, so that the queue keeps each notification."""
    async with engine.connect() as listening:
        await listening.execute(text("LISTEN elsewhere"))
        await listening.commit()
        await listening.execute(text("SELECT 1"))
        yield
