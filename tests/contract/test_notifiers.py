"""The promises of every notifier: PostgreSQL's LISTEN, a relay, and the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
from sqlalchemy import URL, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import Reason, Timing
from rowbell._watch.connections import Connections
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.notifiers.contract import (
    CannotNotifyError,
    Notifier,
    NotifierSession,
    NotifierStatus,
)
from rowbell._watch.notifiers.memory import MemoryNotifier
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.notifiers.postgres import PostgresNotifier
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell._watch.values.key_hash import RowId
from rowbell.relay import Relay, RelayState, SocketNotifier
from support.models import Order, Plain
from support.observed import kill_listener
from support.roles import connected

Tables = dict[int, Any]


class Scene(Protocol):
    """A notifier, a table with rows, a table that cannot notify, and writers."""

    tables: Tables
    plain: Tables

    @property
    def notifier(self) -> Notifier: ...
    def row(self, key: int) -> RowId: ...
    def plain_row(self) -> RowId: ...
    async def change(self, key: int) -> None: ...
    async def lose(self, key: int) -> None:
        """Change a row without sending its notification."""

    async def forge(self, key: int) -> None: ...
    async def redefine(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def found(self, received: Received) -> None:
        """Wait until the notifier can know what it has missed."""

    def writing(self, key: int) -> Any:
        """An open transaction that has changed a row."""


class InMemory:
    def __init__(self) -> None:
        self.notifier = MemoryNotifier()
        self.notifier.obstacles = {2: Reason.TRIGGER_MISSING}
        self.tables: Tables = {1: (object(), None)}
        self.plain: Tables = {2: (object(), None)}

    def row(self, key: int) -> RowId:
        return RowId(1, key)

    def plain_row(self) -> RowId:
        return RowId(2, 1)

    async def change(self, key: int) -> None:
        self.notifier.change(self.row(key))

    async def lose(self, key: int) -> None:
        with self.notifier.losing():
            self.notifier.change(self.row(key))

    async def forge(self, key: int) -> None:
        self.notifier.forge(Notification(1, (key,)))

    async def redefine(self) -> None:
        self.notifier.redefine(1)

    async def disconnect(self) -> None:
        self.notifier.disconnect()

    async def found(self, received: Received) -> None:
        pass

    @asynccontextmanager
    async def writing(self, key: int) -> AsyncGenerator[None]:
        with self.notifier.writing(1):
            yield


class OnPostgres:
    def __init__(self, engine: AsyncEngine, writer: asyncpg.Connection[Any], database: URL) -> None:
        timing = Timing()
        listen_connection = ListenConnection(engine, None, None, timing)
        connections = Connections(engine)
        self.notifier: Notifier = PostgresNotifier(listen_connection, connections.notify, timing)
        self.tables: Tables = {}
        self.plain: Tables = {}
        self._engine = engine
        self._database = database
        self._writer = writer
        self._rows: dict[int, RowId] = {}

    async def prepare(self) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(insert(Order), [{"id": i} for i in range(1, 6)])
            await connection.execute(insert(Plain), [{"id": 1}])
        for model, tables, keys in ((Order, self.tables, range(1, 6)), (Plain, self.plain, [0])):
            rows = MappedRows.of(model, self._engine.dialect, None)
            name = model.__tablename__
            oid = await self._writer.fetchval("SELECT $1::regclass::oid", name)
            tables[oid] = (rows.watched_tables[0], None)
            for key in keys:
                hashed = await self._writer.fetchval(
                    "SELECT hash_record_extended(ROW($1::int), 0)", key
                )
                self._rows[key] = RowId(oid, hashed)

    def row(self, key: int) -> RowId:
        return self._rows[key]

    def plain_row(self) -> RowId:
        return self._rows[0]

    async def change(self, key: int) -> None:
        await self._writer.execute("UPDATE orders SET n = n + 1 WHERE id = $1", key)

    async def lose(self, key: int) -> None:
        async with self._writer.transaction():
            await self._writer.execute("SET LOCAL rowbell.notify = off")
            await self.change(key)

    async def forge(self, key: int) -> None:
        row = self.row(key)
        await self._writer.execute(f"NOTIFY rowbell, '1:{row.table_oid}:{row.key_hash}'")

    async def redefine(self) -> None:
        await self._writer.execute("ALTER TABLE orders ADD COLUMN more int")

    async def disconnect(self) -> None:
        await kill_listener(self._engine)

    async def found(self, received: Received) -> None:
        pass

    @asynccontextmanager
    async def writing(self, key: int) -> AsyncGenerator[None]:
        async with connected(self._database) as connection, connection.transaction():
            await connection.execute("UPDATE orders SET n = n + 1 WHERE id = $1", key)
            yield


class Relayed(OnPostgres):
    """The same, through a relay."""

    def __init__(
        self, engine: AsyncEngine, writer: asyncpg.Connection[Any], database: URL, socket: Path
    ) -> None:
        super().__init__(engine, writer, database)
        self.notifier = RelayedNotifier(SocketNotifier(socket), Connections(engine), Timing())

    async def redefine(self) -> None:
        await super().redefine()
        # The relay checks tables once in ten seconds, and whenever triggers are announced.
        await self._writer.execute("NOTIFY rowbell, '1:0:?'")

    async def found(self, received: Received) -> None:
        await asyncio.wait_for(received.gap.wait(), 10)


class Received:
    """The calls that a notifier has made."""

    def __init__(self) -> None:
        self.notifications: asyncio.Queue[Notification] = asyncio.Queue()
        self.gap = asyncio.Event()

    def on_notification(self, notification: Notification) -> None:
        self.notifications.put_nowait(notification)

    def on_gap(self) -> None:
        self.gap.set()

    async def next(self) -> Notification:
        return await asyncio.wait_for(self.notifications.get(), 10)


@pytest.fixture(params=["memory", "postgres", "relay"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    if request.param == "memory":
        yield InMemory()
        return
    database: URL = request.getfixturevalue("database")
    engine = create_async_engine(database)
    async with connected(database) as writer:
        if request.param == "postgres":
            scene = OnPostgres(engine, writer, database)
            await scene.prepare()
            yield scene
        else:
            socket: Path = request.getfixturevalue("tmp_path") / "relay"
            async with Relay(engine, socket=socket) as relay:
                scene = Relayed(engine, writer, database, socket)
                await scene.prepare()
                await relay.reached(lambda now: now.state is RelayState.LEADING)
                yield scene
    await engine.dispose()


@pytest.fixture
async def received() -> Received:
    return Received()


@pytest.fixture
async def session(scene: Scene, received: Received) -> AsyncIterator[NotifierSession]:
    async with scene.notifier.session(received) as session:
        yield session


async def register(session: NotifierSession, scene: Scene, *keys: int) -> int:
    answer = await session.register([(scene.row(key), None) for key in keys], scene.tables)
    assert not answer.report.obstacles
    assert answer.boundary is not None
    return answer.boundary


def concerns(notification: Notification, row: RowId) -> bool:
    keys = notification.keys
    return notification.table_oid == row.table_oid and keys is not None and row.key_hash in keys


async def test_a_change_of_a_registered_row_is_notified_of(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    await register(session, scene, 1)
    await scene.change(1)
    assert concerns(await received.next(), scene.row(1))


async def test_a_change_of_another_row_is_not_notified_of(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    await register(session, scene, 1)
    await scene.change(2)
    await scene.change(1)
    assert concerns(await received.next(), scene.row(1))
    assert received.notifications.empty()


async def test_a_change_of_an_unregistered_row_is_not_notified_of(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    await register(session, scene, 1, 2)
    await session.unregister([scene.row(1)])
    await scene.change(1)
    await scene.change(2)
    assert concerns(await received.next(), scene.row(2))
    assert received.notifications.empty()


async def test_each_boundary_is_above_the_one_before(
    scene: Scene, session: NotifierSession
) -> None:
    first = await register(session, scene, 1)
    await scene.change(2)
    assert await register(session, scene, 2) > first


async def test_a_lost_notification_is_a_gap_with_a_boundary(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    boundary = await register(session, scene, 1)
    await scene.lose(1)
    await scene.found(received)
    [gap] = (await session.check(scene.tables)).gaps
    assert gap.tables is None
    assert gap.boundary > boundary
    assert "not sent" in gap.detail
    assert received.notifications.empty()
    assert not (await session.check(scene.tables)).gaps


async def test_a_forged_notification_is_received_like_any_other(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    await register(session, scene, 1)
    await scene.forge(1)
    assert concerns(await received.next(), scene.row(1))


async def test_a_table_that_is_not_what_it_was_is_a_gap_of_that_table(
    scene: Scene, session: NotifierSession, received: Received
) -> None:
    boundary = await register(session, scene, 1)
    await scene.redefine()
    await scene.found(received)
    [gap] = (await session.check(scene.tables)).gaps
    assert gap.tables == tuple(scene.tables)
    assert gap.boundary > boundary


async def test_a_table_that_cannot_notify_is_an_obstacle_and_no_error(
    scene: Scene, session: NotifierSession
) -> None:
    tables = {**scene.tables, **scene.plain}
    row = scene.plain_row()
    answer = await session.register([(row, None), (scene.row(1), None)], tables)
    obstacle = answer.report.obstacles[row.table_oid]
    assert obstacle.reason is Reason.TRIGGER_MISSING
    assert obstacle.table
    assert scene.row(1).table_oid not in answer.report.obstacles
    assert (await session.check(tables)).obstacles.keys() == {row.table_oid}


async def test_a_table_is_without_writers_once_those_below_the_boundary_have_ended(
    scene: Scene, session: NotifierSession
) -> None:
    async with scene.writing(2):
        boundary = await register(session, scene, 1)
        assert not await session.tables_without_writers(list(scene.tables), boundary)
    assert set(await session.tables_without_writers(list(scene.tables), boundary)) == set(
        scene.tables
    )
    async with scene.writing(2):
        assert await session.tables_without_writers(list(scene.tables), boundary)


async def test_a_session_that_is_lost_says_so(scene: Scene, received: Received) -> None:
    with pytest.raises((CannotNotifyError, asyncpg.PostgresError)):
        async with scene.notifier.session(received) as session:
            await register(session, scene, 1)
            await scene.disconnect()
            await asyncio.wait_for(received.gap.wait(), 10)
            assert session.loss is not None
            await session.check(scene.tables)


async def test_a_new_session_knows_nothing_of_the_rows_of_the_old(
    scene: Scene, received: Received
) -> None:
    async with scene.notifier.session(received) as session:
        await register(session, scene, 1)
        await session.end()
    async with scene.notifier.session(received) as session:
        await register(session, scene, 2)
        await scene.change(1)
        await scene.change(2)
        assert concerns(await received.next(), scene.row(2))


async def test_the_status_says_what_has_shown_that_notifications_arrive(
    scene: Scene, received: Received
) -> None:
    notifier = scene.notifier
    assert notifier.status.evidence == ""
    async with notifier.session(received) as session:
        assert len(notifier.status.evidence) > 10
        await register(session, scene, 1)
        await scene.change(1)
        await received.next()
        assert notifier.status.notifications == 1
    assert notifier.status == NotifierStatus("", 1, 0)


async def test_the_evidence_of_reads_names_the_same_server(
    engine: AsyncEngine, database: URL
) -> None:
    async with connected(database) as writer:
        scene = OnPostgres(engine, writer, database)
        async with scene.notifier.session(Received()) as session, engine.connect() as connection:
            started = text("SELECT date_part('epoch', pg_postmaster_start_time())")
            assert session.server == await connection.scalar(started)
