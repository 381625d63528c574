"""A worker of the fleet: waits for its rows, and prints what it sees as lines of JSON.

    python fleet_worker.py <url> <nats> <first row> <last row>

It listens through the relay. Nothing but a notification, or polling while it is not armed, can show
it a change: the safety re-read is off.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell.relay import NatsNotifier


class Base(DeclarativeBase):
    """The models."""


@rowbell.watched
class Order(Base):
    """A row that changes again and again."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


def say(**what: Any) -> None:
    """Print a line."""
    print(json.dumps(what), flush=True)


async def follow(watcher: rowbell.RowWatcher, row: int) -> None:
    """Wait for each next state of a row."""
    seen = 0
    while True:
        with suppress(SQLAlchemyError, rowbell.NotFoundError):  # the database may be down
            order = await watcher.wait_for_change(Order, row, since={"n": seen}, interval=0.5)
            seen = order.n
            say(row=row, n=seen, when=time.monotonic())


async def report(watcher: rowbell.RowWatcher) -> None:
    """Say how many waits are armed, twice a second."""
    while True:
        now = watcher.statistics()
        say(armed=now.armed, polled=now.polled, reason=now.reason or "")
        await asyncio.sleep(0.5)


async def main(url: str, nats: str, first: str, last: str) -> None:
    """Follow the rows until this process is ended."""
    arguments = {
        "statement_cache_size": 0,  # for PgBouncer before 1.21
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
    }
    engine = create_async_engine(url, connect_args=arguments, pool_size=2)
    notifier = NatsNotifier(nats, application="shop")
    async with (
        rowbell.RowWatcher(engine, notifier=notifier, recheck=None) as watcher,
        asyncio.TaskGroup() as tasks,
    ):
        for row in range(int(first), int(last) + 1):
            tasks.create_task(follow(watcher, row))
        tasks.create_task(report(watcher))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
