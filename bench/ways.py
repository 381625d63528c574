"""The ways to wait: with rowbell, with other libraries from PyPI, and written by hand.

A way is opened on its own table, with its own trigger. It gives a function that waits until ``n``
of a row differs from the value last seen, and returns the new value.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from table import Row, connect, connected, execute, libpq_url, model

Wait: TypeAlias = Callable[[int, int], Awaitable[int]]
"""Takes a key and the ``n`` last seen, and returns the next ``n``."""

Way: TypeAlias = Callable[[AsyncEngine, str], AbstractAsyncContextManager[Wait]]

FLOOR = "asyncpg + ORM (floor)"
BY_SESSION = "rowbell: wait_for_row_change"
BY_WATCHER = "rowbell: RowWatcher"
BY_FOLLOW = "rowbell: follow"


class Notified:
    """The watched keys, each with an event."""

    def __init__(self) -> None:
        self._events: dict[int, asyncio.Event] = {}

    def set(self, payload: str) -> None:
        """End the wait for the key in a notification's payload."""
        event = self._events.get(int(payload))
        if event is not None:
            event.set()

    async def wait(self, key: int) -> None:
        """Wait for a notification with that key."""
        event = self._events[key] = asyncio.Event()
        await event.wait()
        del self._events[key]


Listener: TypeAlias = Callable[[AsyncEngine, str], AbstractAsyncContextManager[Notified]]
"""Installs a trigger on the table, and listens for its notifications."""


async def notify_always(engine: AsyncEngine, table: str) -> None:
    """Install the usual trigger, which notifies of each row."""
    await execute(
        engine.url,
        [
            f"CREATE OR REPLACE FUNCTION notify_{table}() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN"
            f" PERFORM pg_notify('{table}', NEW.id::text); RETURN NULL; END $$",
            f"CREATE TRIGGER notify AFTER UPDATE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION notify_{table}()",
        ],
    )


@asynccontextmanager
async def asyncpg_listener(engine: AsyncEngine, table: str) -> AsyncGenerator[Notified]:
    """The listener of asyncpg."""
    await notify_always(engine, table)
    notified = Notified()
    async with connected(engine.url) as listening:
        await listening.add_listener(table, lambda *event: notified.set(str(event[3])))
        yield notified


@asynccontextmanager
async def asyncpg_listen(engine: AsyncEngine, table: str) -> AsyncGenerator[Notified]:
    """The listener of asyncpg-listen."""
    from asyncpg_listen import NotificationListener  # noqa: PLC0415

    await notify_always(engine, table)
    notified = Notified()

    async def receive(notification: Any) -> None:
        notified.set(getattr(notification, "payload", None) or "0")

    listener = NotificationListener(lambda: connect(engine.url))
    task = asyncio.create_task(listener.run({table: receive}))
    yield notified
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def sqlnotify(engine: AsyncEngine, table: str) -> AsyncGenerator[Notified]:
    """The listener of sqlnotify, with one subscription and its logger off."""
    from sqlnotify import Notifier, Operation  # noqa: PLC0415

    os.environ["PGHOST"] = str(engine.url.query["host"])  # sqlnotify drops the URL's query string
    notified, notifier = Notified(), Notifier(db_engine=engine)
    logging.getLogger("sqlnotify").setLevel(logging.ERROR)
    notifier.watch(model(table), Operation.UPDATE)

    async def receive(event: Any) -> None:
        notified.set(str(event["id"]))

    notifier.subscribe(model(table), Operation.UPDATE)(receive)
    await notifier.astart()
    yield notified
    await notifier.astop()


async def read(engine: AsyncEngine, row: type[Row], key: int) -> int:
    """Read a row with the ORM, which the libraries' documentation does after a notification."""
    async with AsyncSession(engine) as session:
        return (await session.get_one(row, key, populate_existing=True)).n


def with_orm(listener: Listener) -> Way:
    """A listener, followed by a refresh with the ORM."""

    @asynccontextmanager
    async def way(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        async with listener(engine, table) as notified:

            async def wait(key: int, seen: int) -> int:
                await notified.wait(key)
                return await read(engine, model(table), key)

            yield wait

    return way


@asynccontextmanager
async def asyncpg_alone(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Without the ORM: asyncpg's listener, and a SELECT on a second connection."""
    async with asyncpg_listener(engine, table) as notified, connected(engine.url) as reading:
        alone = asyncio.Lock()

        async def wait(key: int, seen: int) -> int:
            await notified.wait(key)
            async with alone:
                row = await reading.fetchrow(f"SELECT * FROM {table} WHERE id = $1", key)
            assert row is not None
            return int(row["n"])

        yield wait


@asynccontextmanager
async def pg_sse(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """A stream of pg-sse for each row. It reads with the ORM, and stays open after a change."""
    from pg_sse import Event, Hub, trigger_sql  # noqa: PLC0415

    await execute(engine.url, [trigger_sql(table, key_column="id", channel=table)])
    hub = Hub(libpq_url(engine.url), channel=table, max_subscribers=100_000, max_per_owner=100_000)
    streams: dict[int, Any] = {}

    async def wait(key: int, seen: int) -> int:
        async def changes(after: int) -> list[Event]:
            n = await read(engine, model(table), key)
            return [Event({"n": n}, id=n)] if n > after else []

        if key not in streams:
            streams[key] = hub.stream(str(key), read=changes, cursor=seen, start=lambda: seen)
        while True:
            frame = await anext(streams[key])
            text = frame if isinstance(frame, str) else bytes(frame).decode()
            if '"n"' in text:
                return int(text.split('"n":')[1].split("}")[0])

    async with hub.lifespan(None):
        yield wait
        for stream in streams.values():
            await stream.aclose()


def toolsets(interval: float) -> Way:
    """fastapi-toolsets, which polls. The session holds no connection, which is its best case."""

    @asynccontextmanager
    async def way(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        from fastapi_toolsets.db import wait_for_row_change  # noqa: PLC0415

        async def wait(key: int, seen: int) -> int:
            async with AsyncSession(engine) as session:
                row: Any = await wait_for_row_change(session, model(table), key, interval=interval)
                return int(row.n)

        yield wait

    return way


async def install(engine: AsyncEngine, table: str) -> None:
    """Install rowbell's triggers."""
    async with engine.begin() as connection:
        await connection.run_sync(rowbell.install_triggers, model(table))


@asynccontextmanager
async def by_session(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """``rowbell.wait_for_row_change`` with a new session each time."""
    await install(engine, table)

    async def wait(key: int, seen: int) -> int:
        async with AsyncSession(engine) as session:
            row = await rowbell.wait_for_row_change(session, model(table), key, since={"n": seen})
            return row.n

    async with rowbell.RowWatcher(engine, mode="listen"):
        yield wait


@asynccontextmanager
async def by_watcher(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """``RowWatcher.wait_for_change``."""
    await install(engine, table)
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:

        async def wait(key: int, seen: int) -> int:
            return (await watcher.wait_for_change(model(table), key, since={"n": seen})).n

        yield wait


@asynccontextmanager
async def by_follow(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """``RowWatcher.follow``, which stays open after a change."""
    await install(engine, table)
    follows: dict[int, rowbell.Follow[Row]] = {}
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:

        async def wait(key: int, seen: int) -> int:
            if key not in follows:
                follows[key] = watcher.follow(model(table), key, since={"n": seen})
            return (await anext(follows[key])).n

        yield wait


NOTIFIED: dict[str, Way] = {
    "asyncpg alone": asyncpg_alone,
    FLOOR: with_orm(asyncpg_listener),
    BY_SESSION: by_session,
    BY_WATCHER: by_watcher,
    BY_FOLLOW: by_follow,
    "asyncpg-listen": with_orm(asyncpg_listen),
    "sqlnotify": with_orm(sqlnotify),
    "pg-sse": pg_sse,
}
"""The ways that wait for a notification."""


def with_polling(interval: float) -> dict[str, Way]:
    """All ways. The one that polls uses that interval."""
    return {**NOTIFIED, f"fastapi-toolsets, {interval} s": toolsets(interval)}
