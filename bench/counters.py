"""Counters of statements, connections and memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class Statements:
    """Counts the statements that an engine and its listeners send."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.count = 0
        event.listen(engine.sync_engine, "before_cursor_execute", self._one_more)
        event.listen(engine.sync_engine, "connect", self._connected)

    def _one_more(self, *_: object) -> None:
        self.count += 1

    def _connected(self, connection: Any, _record: object) -> None:
        # The listener uses asyncpg directly, so the engine's events do not see its statements.
        connection.driver_connection.add_query_logger(self._one_more)


async def connections(observer: asyncpg.Connection[Any]) -> int:
    """The number of connections to the observer's database, without its own."""
    count: int = await observer.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return count


def memory() -> int:
    """The resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
