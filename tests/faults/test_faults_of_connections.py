"""What may befall the connection that listens, step by step; each change is seen all the same."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import ListenError, Reason, RowWatcher, Timing, WatcherState
from rowbell._watch.database.calls import Calls
from rowbell.embedded import EmbeddedServer
from support.catalogue import due, seen
from support.models import Order
from support.observed import backends, execute, kill_listener
from support.orders import CHANGE
from support.proxy import Proxy, error
from support.roles import connected, role
from support.waits import IMPATIENT as QUICK
from support.waits import LISTENING, POLLING, armed_wait, polled_wait, reconnected


@asynccontextmanager
async def waiting(
    watching: RowWatcher, *, interval: float = 3600
) -> AsyncGenerator[tuple[RowWatcher, asyncio.Task[Order]]]:
    """An armed wait for row 1, which only the bell ends, or a read after a loss."""
    async with watching as watcher:
        wait = await armed_wait(watcher, interval=interval)
        yield watcher, wait


async def changed(wait: asyncio.Task[Order], database: URL) -> None:
    """A change now is seen by the wait."""
    await execute(database, CHANGE)
    await seen(wait)


@pytest.mark.fault("B3")
async def test_a_heartbeat_that_the_server_cancels_is_a_loss(
    orders: AsyncEngine, database: URL
) -> None:
    """It waits for a lock, and an administrator cancels it: polled at once, then back."""
    async with waiting(RowWatcher(orders, recheck=None, timing=QUICK)) as (watcher, wait):
        cancel = (
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = "
            "'Lock' AND application_name LIKE 'rowbell%' AND datname = current_database()"
        )
        async with connected(database) as locker, locker.transaction():
            await locker.execute("LOCK TABLE rowbell.listener IN ACCESS EXCLUSIVE MODE")
            async with connected(database) as administrator:
                while not await administrator.fetchval(cancel):
                    await asyncio.sleep(0.01)  # the server tells nobody that a session waits
            await watcher.reached(lambda now: now.state is POLLING)
            await changed(wait, database)
        await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B3")
@pytest.mark.parametrize("failure", [TimeoutError, ValueError, asyncio.CancelledError])
async def test_a_heartbeat_that_fails_in_any_way_is_a_loss(
    orders: AsyncEngine,
    database: URL,
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Calls.heartbeat, 0

    async def heartbeat(calls: Calls, tables: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise failure
        return await real(calls, tables)

    monkeypatch.setattr(Calls, "heartbeat", heartbeat)
    async with waiting(RowWatcher(orders, recheck=None, timing=QUICK)) as (watcher, wait):
        failures = 1
        if failure is asyncio.CancelledError:  # which nobody has asked for: never in silence
            await asyncio.wait([wait])
            assert watcher.statistics().state is WatcherState.CLOSED
            wait.exception()
            return
        await watcher.reached(lambda now: now.reconnects == 1 and now.armed == 1)
        await changed(wait, database)


@pytest.mark.fault("B4")
@pytest.mark.parametrize("at", ["the proof", "the registration"])
async def test_a_set_up_that_fails_half_way_leaves_no_connection(
    orders: AsyncEngine, database: URL, proxy: Proxy, at: str
) -> None:
    """It is tried again and again; none of the tries is left on the server."""
    timing = Timing(proof=0.02, backoff=0.01, backoff_limit=0.01)
    async with role(database) as stranger:
        if at == "the proof":
            proxy.deaf = True
        else:
            proxy.redirect(stranger)
            await execute(database, "REVOKE EXECUTE ON FUNCTION rowbell.open_listener FROM PUBLIC")
        url = proxy.url.set(username=stranger.username)
        async with RowWatcher(orders, listen_url=url, timing=timing):
            await proxy.has_accepted(80)  # two for each try: asyncpg asks for SSL first
            left = [b for b in await backends(orders) if b.usename == stranger.username]
            assert len(left) <= 2


def _refuse() -> tuple[socket.socket, int]:
    """A port that nobody listens on, and the socket that will."""
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
    """At the first connect and at a reconnect; the wait is polled meanwhile."""
    proxy.instead = answer
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=QUICK)
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
    async with RowWatcher(orders, listen_url=url, recheck=None, timing=QUICK) as watcher:
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
    """Three seconds without a server, with a tenth of the default times: as half a minute."""
    caplog.set_level(logging.DEBUG, "rowbell")
    timing = Timing(backoff=0.025, backoff_limit=3.0, heartbeat=1.0)
    engine = create_async_engine(proxy.url, poolclass=NullPool)
    proxy.refusing = True
    async with RowWatcher(engine, timing=timing) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.5, timeout=60))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(3)  # a stretch of time in which little may happen
        took = loop.time() - begun
        # By the backoff: at 0, .025, .075, … 1.6 and 3.2 s; two connects each, as asyncpg has it.
        assert proxy.accepted <= 2 * (10 + took / 0.5)
        assert len(caplog.records) <= 3
        proxy.refusing = False
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, CHANGE)
        due()
        await seen(wait)


STEPS = [
    "identify",
    "listen",
    "prepare_session",
    "open_listener",
    "heartbeat",
    "register",
    "boundary",
]


@pytest.mark.fault("B7")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_change_at_any_step_of_a_reconnect_is_seen(
    orders: AsyncEngine, database: URL, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read at an interval helps, and no heartbeat."""
    real, armed_once = getattr(Calls, step), False

    async def stepping(calls: Calls, *arguments: Any) -> Any:
        nonlocal armed_once
        change, armed_once = armed_once, False
        if change and when == "before":
            await execute(database, CHANGE)
        result = await real(calls, *arguments)
        if change and when == "after":
            await execute(database, CHANGE)
        return result

    monkeypatch.setattr(Calls, step, stepping)
    timing = replace(QUICK, heartbeat=1000.0, answer=10.0)
    async with waiting(RowWatcher(orders, recheck=None, timing=timing)) as (_, wait):
        armed_once = True
        await kill_listener(orders)
        await seen(wait)
        assert not armed_once


@pytest.mark.fault("B8")
async def test_a_storm_of_notifications_hides_no_change(orders: AsyncEngine, database: URL) -> None:
    """While waits come and go, and while LISTEN is said anew."""
    storm = "SELECT pg_notify('rowbell', '1:' || 'orders'::regclass::oid || ':' || i)"
    async with orders.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        stop = asyncio.Event()

        async def rage() -> None:
            while not stop.is_set():
                await connection.execute(text(f"{storm} FROM generate_series(1, 200) AS i"))

        async def follow(watcher: RowWatcher, key: int) -> None:
            for n in range(10):
                wait = asyncio.create_task(
                    watcher.wait_for_change(Order, key, since={"n": n}, interval=60, timeout=60)
                )
                await asyncio.sleep(0)
                await execute(database, f"UPDATE orders SET n = n + 1 WHERE id = {key}")
                assert (await seen(wait)).n == n + 1

        async with (
            RowWatcher(orders, recheck=None, timing=replace(QUICK, answer=5.0)) as watcher,
            asyncio.TaskGroup() as tasks,
        ):
            raging = tasks.create_task(rage())
            async with asyncio.TaskGroup() as followers:
                for key in range(1, 11):
                    followers.create_task(follow(watcher, key))
                for n in range(3):
                    await kill_listener(orders)
                    await watcher.reached(reconnected(n))
            stop.set()
            await raging


@pytest.mark.fault("B9")
async def test_a_pool_of_one_connection_serves_the_application_while_waits_stand(
    orders: AsyncEngine, database: URL
) -> None:
    """Fifty times taken, used and thrown away; the listener notices nothing."""
    engine = create_async_engine(database, pool_size=1, max_overflow=0, pool_timeout=1)
    async with waiting(RowWatcher(engine, recheck=None, timing=QUICK)) as (watcher, wait):
        for _ in range(50):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await connection.invalidate()
        await changed(wait, database)
        assert watcher.statistics().reconnects == 0
    await engine.dispose()


@pytest.mark.fault("B10")
async def test_a_server_that_kills_what_is_idle_in_a_transaction_kills_no_listener(
    orders: AsyncEngine, database: URL
) -> None:
    impatient = {"idle_in_transaction_session_timeout": "50"}
    engine = create_async_engine(database, connect_args={"server_settings": impatient})
    async with waiting(RowWatcher(engine, recheck=None, timing=QUICK)) as (watcher, wait):
        await asyncio.sleep(0.5)  # a stretch of time in which nothing may happen
        await changed(wait, database)
        assert watcher.statistics().reconnects == 0
    await engine.dispose()


@pytest.mark.fault("B11")
def test_one_event_loop_after_the_other(database: URL) -> None:
    """A closed watcher leaves nothing that the next loop's would stumble over."""
    engine = create_async_engine(database, poolclass=NullPool)

    async def use(n: int) -> None:
        async with waiting(RowWatcher(engine, recheck=None, timing=QUICK)) as (_, wait):
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
    """A real password; until the application gives the new one the wait is polled."""
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
        async with waiting(RowWatcher(engine, recheck=None, timing=QUICK)) as (watcher, wait):
            await execute(server.url, "ALTER ROLE rotating PASSWORD 'two'")
            await kill_listener(owner)
            await watcher.reached(lambda now: now.reason is Reason.CANNOT_LISTEN)
            await execute(owner.url, CHANGE)
            await asyncio.sleep(0.1)  # reads fail too: nothing may come of it
            assert not wait.done()
            password = "two"  # noqa: S105
            due()
            await seen(wait)
            await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B1")
async def test_a_change_while_the_listener_was_killed_and_kept_out_is_seen_when_it_is_back(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    """With an interval of an hour; within the longest backoff and a second of its return."""
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=QUICK)
    async with waiting(watching) as (watcher, wait):
        proxy.refusing = True
        await kill_listener(orders)
        reads = watcher.statistics().queries
        await watcher.reached(lambda now: now.state is POLLING and now.queries > reads)
        await execute(database, CHANGE)
        assert not wait.done()
        proxy.refusing = False
        due()
        await seen(wait)


@pytest.mark.fault("B2")
async def test_after_a_half_open_connection_notifications_wake_again(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    watching = RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=QUICK)
    async with waiting(watching) as (watcher, wait):
        proxy.stall()
        due()
        await execute(database, CHANGE)
        await seen(wait)  # found out by the heartbeat, and read again
        proxy.resume()
        again = await armed_wait(watcher)
        await changed(again, database)


@pytest.mark.fault("B18")
@pytest.mark.parametrize("sqlstate", ["0A000", "42601"])
async def test_a_server_that_refuses_listen_is_polled_and_not_asked_again(
    orders: AsyncEngine, database: URL, proxy: Proxy, sqlstate: str
) -> None:
    """CockroachDB and others: the refusal is for good."""
    proxy.refused_query, proxy.instead = b"LISTEN", error(sqlstate, "LISTEN is not supported")
    async with RowWatcher(orders, listen_url=proxy.url, timing=QUICK) as watcher:
        now = watcher.statistics()
        assert (now.state, now.reason) == (POLLING, Reason.UNSUPPORTED)
        accepted = proxy.accepted
        wait = await polled_wait(watcher, interval=0.05)
        await changed(wait, database)
        assert proxy.accepted == accepted
    with pytest.raises(ListenError, match="unsupported"):
        await RowWatcher(orders, mode="listen", listen_url=proxy.url, timing=QUICK).__aenter__()


@pytest.mark.fault("B14")
@pytest.mark.parametrize("cached", [True, False], ids=["prepared", "unprepared"])
async def test_another_server_process_behind_the_same_connection_is_found_out(
    orders: AsyncEngine, database: URL, proxy: Proxy, cached: bool
) -> None:
    """A pooler swaps it after the proof: nothing would be heard any more."""
    # With a cache the new process knows none of the prepared statements.
    none = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    engine = create_async_engine(proxy.url, poolclass=NullPool, connect_args={} if cached else none)
    timing = replace(QUICK, backoff=60.0, backoff_limit=60.0)
    watching = RowWatcher(engine, recheck=None, timing=timing)
    async with waiting(watching, interval=0.05) as (watcher, wait):
        await proxy.swap()
        await watcher.reached(lambda now: now.state is POLLING)
        assert watcher.statistics().reason is Reason.NOT_DELIVERED
        await changed(wait, database)


@pytest.mark.fault("B39")
async def test_a_change_at_once_after_a_wait_is_said_to_be_armed_wakes_it(
    orders: AsyncEngine, database: URL
) -> None:
    """Thirty times, with nothing but the notification to end it."""
    async with connected(database) as writer, RowWatcher(orders, recheck=None) as watcher:
        for key in range(1, 31):
            wait = await armed_wait(watcher, Order, key)
            await writer.execute("UPDATE orders SET n = n + 1 WHERE id = $1", key)
            due()
            await seen(wait)
