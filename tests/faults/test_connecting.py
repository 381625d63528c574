"""The LISTEN connection cannot be made. It is tried again, soon but not too often."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import Reason, RowWatcher, Timing, WatcherState
from rowbell.embedded import EmbeddedServer
from support.catalogue import due, seen
from support.models import Order
from support.observed import backends, execute, kill_listener, listeners
from support.orders import CHANGE, change, changed
from support.proxy import Proxy, error, proxy_to
from support.roles import role
from support.waits import IMPATIENT, LISTENING, POLLING, armed_on, armed_wait, polled_wait


@pytest.mark.fault("B5", "B6")
async def test_a_server_that_cannot_be_reached_is_polled_without_a_log_storm(
    orders: AsyncEngine, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refusing = True
    async with RowWatcher(orders, listen_url=proxy.url, timing=IMPATIENT) as watcher:
        assert watcher.statistics().reason is Reason.CONNECTION_LOST
        wait = await polled_wait(watcher, interval=0.02)
        await change(orders)
        await seen(wait)
        await proxy.has_accepted(5)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


@pytest.mark.fault("B6")
async def test_a_database_without_rowbell_is_asked_again_only_after_the_backoff(
    server: URL,
) -> None:
    engine = create_async_engine(server)
    async with proxy_to(server) as proxy:
        slow = Timing(backoff=30)
        async with RowWatcher(engine, listen_url=proxy.url, timing=slow) as watcher:
            assert watcher.statistics().reason is Reason.NOT_INSTALLED
            for _ in range(20):
                await asyncio.sleep(0.01)  # nothing may happen during this time
            assert proxy.accepted <= 2  # asyncpg makes two: it tries SSL first
    await engine.dispose()


@pytest.mark.fault("B12")
async def test_hooks_that_rotate_credentials_serve_the_listen_connection(
    orders: AsyncEngine, database: URL
) -> None:
    """The engine's ``do_connect`` hooks run for each connection, also with ``listen_url``."""
    for listen_url in (None, database):
        asked: list[object] = []
        engine = create_async_engine(database, poolclass=NullPool)
        event.listen(
            engine.sync_engine,
            "do_connect",
            lambda _dialect, _record, _args, parameters, asked=asked: asked.append(
                parameters.setdefault("password", "fresh")
            ),
        )
        async with RowWatcher(engine, mode="listen", listen_url=listen_url, timing=IMPATIENT):
            before = len(asked)
            assert before >= 1
            await kill_listener(orders)
            while len(asked) == before:
                await asyncio.sleep(0.01)  # the hook is synchronous and cannot be awaited


async def test_the_engines_own_connect_args_make_the_listen_connection(
    orders: AsyncEngine, database: URL
) -> None:
    arguments = {"server_settings": {"application_name": "shop"}}
    engine = create_async_engine(database, connect_args=arguments)
    async with RowWatcher(engine, mode="listen"):
        [listener] = await listeners(orders)
    assert (listener.application_name, listener.state) == ("rowbell shop", "idle")
    await engine.dispose()


@pytest.mark.fault("B4")
@pytest.mark.parametrize("at", ["the proof", "the registration"])
async def test_a_set_up_that_fails_half_way_leaves_no_connection(
    orders: AsyncEngine, database: URL, proxy: Proxy, at: str
) -> None:
    """It is tried many times. No try leaves a connection on the server."""
    timing = Timing(proof=0.02, backoff=0.01, backoff_limit=0.01)
    async with role(database) as stranger:
        if at == "the proof":
            proxy.deaf = True
        else:
            proxy.redirect(stranger)
            await execute(database, "REVOKE EXECUTE ON FUNCTION rowbell.open_listener FROM PUBLIC")
        url = proxy.url.set(username=stranger.username)
        async with RowWatcher(orders, listen_url=url, timing=timing):
            await proxy.has_accepted(80)  # two for each try: asyncpg tries SSL first
            left = [b for b in await backends(orders) if b.usename == stranger.username]
            assert len(left) <= 2


def _refuse() -> tuple[socket.socket, int]:
    """A port that no socket listens on, and the socket that will listen there later."""
    later = socket.socket()
    later.bind(("127.0.0.1", 0))
    return later, later.getsockname()[1]


BROKEN = {
    "a password that is wrong": error("28P01", "password authentication failed"),
    "starting up": error("57P03", "the database system is starting up"),
    "too many clients": error("53300", "sorry, too many clients already"),
    "the end in the middle of a message": b"R\0\0\0\x08\0",
    "not PostgreSQL": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.fault("B5")
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_however_a_connect_fails_it_is_tried_again(
    orders: AsyncEngine, database: URL, proxy: Proxy, answer: bytes
) -> None:
    """This holds for the first connect and for a reconnect. Until then the wait is polled."""
    proxy.instead = answer
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=IMPATIENT)
    async with watching as watcher:
        assert watcher.statistics().state is POLLING
        wait = await polled_wait(watcher, interval=0.05)
        await changed(wait, database)
        proxy.instead = b""
        wait = await armed_wait(watcher)
        proxy.instead = answer
        accepted, reads = proxy.accepted, watcher.statistics().queries
        proxy.cut()
        await watcher.reached(lambda now: now.state is POLLING and now.queries > reads)
        await execute(database, CHANGE)
        await proxy.has_accepted(accepted + 4)
        proxy.instead = b""
        due()
        await seen(wait)
        await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B5")
@pytest.mark.parametrize("how", ["refused", "reset", "no such name"])
async def test_a_server_that_cannot_be_found_is_found_later(
    orders: AsyncEngine, database: URL, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    later, port = _refuse()
    url = database.set(host="127.0.0.1", port=port).difference_update_query(["host"])
    if how == "no such name":
        later.close()
        url = url.set(host="db.invalid")
    elif how == "reset":
        later.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        later.listen()
        later.setblocking(False)  # noqa: FBT003

        def reset() -> None:
            later.accept()[0].close()

        loop.add_reader(later, reset)
    async with RowWatcher(orders, listen_url=url, recheck=None, timing=IMPATIENT) as watcher:
        now = watcher.statistics()
        assert (now.state, now.reason) == (POLLING, Reason.CONNECTION_LOST)
        wait = await polled_wait(watcher, interval=0.05)
        await changed(wait, database)
    if how == "reset":
        loop.remove_reader(later)
    later.close()


@pytest.mark.fault("B6")
async def test_an_outage_is_neither_a_storm_of_connects_nor_of_log_lines(
    orders: AsyncEngine, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Three seconds without a server, with a tenth of the default times: like half a minute."""
    caplog.set_level(logging.DEBUG, "rowbell")
    timing = Timing(backoff=0.025, backoff_limit=3.0, heartbeat=1.0)
    engine = create_async_engine(proxy.url, poolclass=NullPool)
    proxy.refusing = True
    async with RowWatcher(engine, timing=timing) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.5, timeout=60))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(3)  # little may happen during this time
        took = loop.time() - begun
        # The backoff tries at 0, .025, .075, … 1.6 and 3.2 s; asyncpg connects twice for each.
        assert proxy.accepted <= 2 * (10 + took / 0.5)
        assert len(caplog.records) <= 3
        proxy.refusing = False
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, CHANGE)
        due()
        await seen(wait)


@pytest.mark.fault("B11")
def test_an_engine_is_watched_in_one_event_loop_after_another(database: URL) -> None:
    """A closed watcher leaves nothing that disturbs the watcher of the next event loop."""
    engine = create_async_engine(database, poolclass=NullPool)

    async def use(n: int) -> None:
        async with armed_on(RowWatcher(engine, recheck=None, timing=IMPATIENT)) as (_, wait):
            await execute(database, f"UPDATE orders SET n = {n} WHERE id = 1")
            assert (await seen(wait)).n == n

    async def begin() -> None:
        await execute(database, "INSERT INTO orders (id, status, n) VALUES (1, '', 0)")
        await use(1)

    asyncio.run(begin())
    asyncio.run(use(2))


@pytest.mark.fault("B12")
@pytest.mark.parametrize("source", ["do_connect", "async_creator", "password function"])
async def test_a_password_that_changes_is_asked_for_anew(source: str) -> None:
    """The wait is polled until the application supplies the new password."""
    with EmbeddedServer() as server:
        password = "one"  # noqa: S105

        async def fresh() -> str:
            return password

        await execute(
            server.url,
            "CREATE ROLE rotating LOGIN SUPERUSER PASSWORD 'one'",
            "CREATE DATABASE shop OWNER rotating",
        )
        rules = server.directory / "pg_hba.conf"
        rules.write_text(f"local all rotating scram-sha-256\n{rules.read_text()}")
        await execute(server.url, "SELECT pg_reload_conf()")
        url = server.url.set(database="shop", username="rotating")
        more: dict[str, Any] = {}
        if source == "password function":
            more["connect_args"] = {"password": fresh}
        elif source == "async_creator":
            dsn = url.set(drivername="postgresql").render_as_string()

            async def creator() -> asyncpg.Connection[Any]:
                return await asyncpg.connect(dsn, password=password)

            more["async_creator"] = creator
        engine = create_async_engine(url, poolclass=NullPool, **more)
        if source == "do_connect":
            event.listen(
                engine.sync_engine,
                "do_connect",
                lambda _d, _r, _a, parameters: parameters.update(password=password),
            )
        owner = create_async_engine(server.url.set(database="shop"), poolclass=NullPool)
        async with owner.begin() as connection:
            await connection.run_sync(Order.metadata.tables["orders"].create)
        await execute(owner.url, "INSERT INTO orders (id, status, n) VALUES (1, '', 0)")
        async with armed_on(RowWatcher(engine, recheck=None, timing=IMPATIENT)) as (watcher, wait):
            await execute(server.url, "ALTER ROLE rotating PASSWORD 'two'")
            await kill_listener(owner)
            await watcher.reached(lambda now: now.reason is Reason.CANNOT_LISTEN)
            await execute(owner.url, CHANGE)
            await asyncio.sleep(0.1)  # reads fail too, and the wait must not end
            assert not wait.done()
            password = "two"  # noqa: S105
            due()
            await seen(wait)
            await watcher.reached(lambda now: now.state is LISTENING)


FOR_GOOD: dict[str, tuple[Reason, str]] = {
    "no such database": (Reason.CANNOT_LISTEN, "no_such_database"),
    "an argument that the driver refuses": (Reason.CANNOT_LISTEN, "sslmode"),
    "a part of the schema is gone": (Reason.SCHEMA_OUTDATED, "open_listener"),
    "no right to register": (Reason.NOT_PERMITTED, "open_listener"),
}


@pytest.mark.parametrize("what", FOR_GOOD)
async def test_an_error_that_does_not_pass_is_not_reported_as_a_lost_connection(
    engine: AsyncEngine, database: URL, what: str
) -> None:
    reason, named = FOR_GOOD[what]
    async with role(database) as stranger:
        url = database
        if what == "no such database":
            url = database.set(database=named)
        elif what == "an argument that the driver refuses":
            url = database.update_query_dict({"ssl": "no-such-sslmode"})
        elif what == "a part of the schema is gone":
            await execute(database, "DROP FUNCTION rowbell.open_listener() CASCADE")
        else:
            url = stranger
            await execute(database, "REVOKE EXECUTE ON FUNCTION rowbell.open_listener FROM PUBLIC")
        async with RowWatcher(engine, listen_url=url, timing=Timing(backoff=60)) as watcher:
            now = watcher.statistics()
            assert (now.state, now.reason) == (WatcherState.POLLING, reason)
            assert named in now.detail
