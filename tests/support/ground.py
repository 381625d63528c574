"""The common setup for tests of the contract, with any way of noticing a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher, Timing
from support.waits import HOUR, until_begun

TIMING: Final = Timing(heartbeat=0.2, narrow=0.2)
BRIEF: Final = 0.15
"""A timeout for waits that must time out."""
ODD: Final = UUID("3f2504e0-4f89-41d3-9a0c-0305e82c3301")
"""The key of a row of ``Odd``."""


class Ground:
    """Rows, another connection that changes them, and waits for them.

    Args:
        engine: The engine of the database.
        watcher: The engine's watcher; it listens or polls.
    """

    def __init__(self, engine: AsyncEngine, watcher: RowWatcher) -> None:
        self.engine = engine
        self.watcher = watcher
        self.is_polled = watcher.statistics().reason is not None
        self.interval = 0.02 if self.is_polled else HOUR
        self._probes = 0

    async def execute(self, *statements: Any) -> None:
        """Execute the statements in one transaction."""
        async with self.engine.begin() as connection:
            for statement in statements:
                if isinstance(statement, str):
                    await connection.exec_driver_sql(statement)
                else:
                    await connection.execute(statement)

    @asynccontextmanager
    async def begun(
        self, wait: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any, **more: Any
    ) -> AsyncGenerator[asyncio.Task[Any]]:
        """Begin a wait. It has its baseline and, if the watcher listens, is armed."""
        before = self.watcher.statistics()
        task = await until_begun(
            self.watcher,
            wait(*arguments, **{"interval": self.interval, **more}),
            lambda now: (
                now.queries > before.queries if self.is_polled else now.armed > before.armed
            ),
        )
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def notifications(self) -> int:
        """The number of notifications from triggers."""
        return self.watcher.statistics().notifications - self._probes

    async def still_waiting(self, task: asyncio.Task[Any]) -> None:
        """Check that the wait has not ended, although its row was read again."""
        if self.is_polled:
            seen = self.watcher.statistics().queries
            await self.watcher.reached(lambda now: now.queries > seen + 1)
        else:
            # The first notification may arrive during a read that began before it.
            for _ in range(2):
                await self._everything_is_read()
        assert not task.done()

    async def _everything_is_read(self) -> None:
        before = self.watcher.statistics()
        self._probes += 1
        # A payload of another version causes a read of all rows.
        await self.execute("SELECT pg_notify('rowbell', '0:0:')")
        await self.watcher.reached(
            lambda now: now.rereads > before.rereads and now.notifications > before.notifications
        )
