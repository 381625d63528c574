"""The ways to wait: rowbell, its peers as PyPI has them, and the physical floor.

A way is opened on a table of its own, with its own trigger, and gives a function that waits
until the row of a key has another ``n`` than the one last seen, and returns the new one.
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
from table import Row, connect, execute, model

Wait: TypeAlias = Callable[[int, int], Awaitable[int]]
"""Given a key and the ``n`` last seen, returns the next."""

Way: TypeAlias = Callable[[AsyncEngine, str], AbstractAsyncContextManager[Wait]]


async def by_orm(engine: AsyncEngine, row: type[Row], key: int) -> int:
    """What the peers' documentation does once it has been told."""
    async with AsyncSession(engine) as session:
        return (await session.get_one(row, key, populate_existing=True)).n


class Doorbells:
    """An event for each key that is waited for."""

    def __init__(self) -> None:
        self._events: dict[int, asyncio.Event] = {}

    def ring(self, payload: str) -> None:
        event = self._events.get(int(payload))
        if event is not None:
            event.set()

    async def wait(self, key: int) -> None:
        event = self._events[key] = asyncio.Event()
        await event.wait()
        del self._events[key]


def plain_trigger(table: str) -> list[str]:
    """The trigger that everybody writes first."""
    return [
        f"CREATE OR REPLACE FUNCTION tell_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM pg_notify('{table}', NEW.id::text); RETURN NULL; END $$",
        f"CREATE TRIGGER tell AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION tell_{table}()",
    ]


@asynccontextmanager
async def raw(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Asyncpg alone: a listener, and a SELECT on a second connection."""
    await execute(engine.url, plain_trigger(table))
    listening, reading = await connect(engine.url), await connect(engine.url)
    bells, alone = Doorbells(), asyncio.Lock()
    await listening.add_listener(table, lambda *event: bells.ring(str(event[3])))

    async def wait(key: int, seen: int) -> int:
        await bells.wait(key)
        async with alone:
            row = await reading.fetchrow(f"SELECT * FROM {table} WHERE id = $1", key)
        assert row is not None
        return int(row["n"])

    yield wait
    await listening.close()
    await reading.close()


@asynccontextmanager
async def raw_orm(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """The ORM floor: asyncpg's listener, and the ORM's refreshed instance."""
    await execute(engine.url, plain_trigger(table))
    listening, bells = await connect(engine.url), Doorbells()
    await listening.add_listener(table, lambda *event: bells.ring(str(event[3])))

    async def wait(key: int, seen: int) -> int:
        await bells.wait(key)
        return await by_orm(engine, model(table), key)

    yield wait
    await listening.close()


@asynccontextmanager
async def listen(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """asyncpg-listen, and the ORM."""
    from asyncpg_listen import NotificationListener  # noqa: PLC0415

    await execute(engine.url, plain_trigger(table))
    bells = Doorbells()

    async def hear(notification: Any) -> None:
        bells.ring(getattr(notification, "payload", None) or "0")

    listener = NotificationListener(lambda: connect(engine.url))
    task = asyncio.create_task(listener.run({table: hear}))

    async def wait(key: int, seen: int) -> int:
        await bells.wait(key)
        return await by_orm(engine, model(table), key)

    yield wait
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def sqlnotify(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Sqlnotify with one subscription, its logger off, and the ORM."""
    from sqlnotify import Notifier, Operation  # noqa: PLC0415

    os.environ["PGHOST"] = str(engine.url.query["host"])  # it strips the URL's query string
    bells, notifier = Doorbells(), Notifier(db_engine=engine)
    logging.getLogger("sqlnotify").setLevel(logging.ERROR)
    notifier.watch(model(table), Operation.UPDATE)

    async def hear(event: Any) -> None:
        bells.ring(str(event["id"]))

    notifier.subscribe(model(table), Operation.UPDATE)(hear)
    await notifier.astart()

    async def wait(key: int, seen: int) -> int:
        await bells.wait(key)
        return await by_orm(engine, model(table), key)

    yield wait
    await notifier.astop()


@asynccontextmanager
async def pg_sse(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """Pg-sse's stream, fed by the ORM; a stream that goes on gives one change after the other."""
    from pg_sse import Event, Hub, trigger_sql  # noqa: PLC0415

    await execute(engine.url, [trigger_sql(table, key_column="id", channel=table)])
    url = (
        f"postgresql://{engine.url.username}@/{engine.url.database}?host={engine.url.query['host']}"
    )
    hub = Hub(url, channel=table, max_subscribers=100_000, max_per_owner=100_000)
    streams: dict[int, Any] = {}

    async def wait(key: int, seen: int) -> int:
        async def read(after: int) -> list[Event]:
            n = await by_orm(engine, model(table), key)
            return [Event({"n": n}, id=n)] if n > after else []

        if key not in streams:
            streams[key] = hub.stream(str(key), read=read, cursor=seen, start=lambda: seen)
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
    """fastapi-toolsets, which polls; the session passed in holds no connection, its best case."""

    @asynccontextmanager
    async def way(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
        from fastapi_toolsets.db import wait_for_row_change  # noqa: PLC0415

        async def wait(key: int, seen: int) -> int:
            async with AsyncSession(engine) as session:
                row: Any = await wait_for_row_change(session, model(table), key, interval=interval)
                return int(row.n)

        yield wait

    return way


async def watched(engine: AsyncEngine, table: str) -> None:
    """Install rowbell's triggers."""
    async with engine.begin() as connection:
        await connection.run_sync(rowbell.install_triggers, model(table))


@asynccontextmanager
async def with_session(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """rowbell.wait_for_row_change, a new session each time."""
    await watched(engine, table)

    async def wait(key: int, seen: int) -> int:
        async with AsyncSession(engine) as session:
            row = await rowbell.wait_for_row_change(session, model(table), key, since={"n": seen})
            return row.n

    async with rowbell.RowWatcher(engine, mode="listen"):
        yield wait


@asynccontextmanager
async def by_watcher(engine: AsyncEngine, table: str) -> AsyncGenerator[Wait]:
    """RowWatcher.wait_for_change."""
    await watched(engine, table)
    async with rowbell.RowWatcher(engine, mode="listen") as watcher:

        async def wait(key: int, seen: int) -> int:
            return (await watcher.wait_for_change(model(table), key, since={"n": seen})).n

        yield wait


WAYS: dict[str, Way] = {
    "asyncpg alone": raw,
    "asyncpg + ORM (floor)": raw_orm,
    "wait_for_row_change": with_session,
    "RowWatcher.wait_for_change": by_watcher,
    "asyncpg-listen": listen,
    "sqlnotify": sqlnotify,
    "pg-sse": pg_sse,
    "fastapi-toolsets, 0.05 s": toolsets(0.05),
}
