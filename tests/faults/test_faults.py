"""Whatever happens to the connection, the change is seen: here the real thing is broken.

Each test ends by showing that a change made while something was broken was seen.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import URL, event, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import (
    ListenError,
    Reason,
    RowWatcher,
    Timing,
    WaitTimeoutError,
    install_triggers,
    wait_for_row_change,
)
from rowbell.embedded import EmbeddedServer
from support.catalogue import due, seen
from support.models import Base, Item, Order
from support.observed import execute, kill_listener, listeners
from support.orders import change
from support.proxy import Proxy, proxy_to
from support.waits import IMPATIENT as QUICK
from support.waits import LISTENING, POLLING, armed_wait, has_read, polled_wait, reconnected, run


@pytest.mark.fault("B1")
async def test_a_change_made_while_the_connection_was_lost_is_seen(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    """Even by waits that would poll only in an hour: the reconnect reads everything."""
    async with RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher)
        proxy.refusing = True
        proxy.cut()
        await watcher.reached(lambda now: now.state is POLLING and now.armed == 0)
        assert watcher.statistics().reason is Reason.CONNECTION_LOST
        await change(orders)
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1
        await watcher.reached(lambda now: now.state is LISTENING)
        assert watcher.statistics().reconnects == 1


@pytest.mark.fault("B1")
async def test_a_killed_backend_is_replaced(orders: AsyncEngine) -> None:
    async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
        for key in range(1, 6):
            wait = await armed_wait(watcher, Order, key)
            reconnects = watcher.statistics().reconnects
            await kill_listener(orders)
            await watcher.reached(reconnected(reconnects, armed=1))
            await change(orders, key)
            assert (await seen(wait)).n == 1
        assert len(await listeners(orders)) == 1


@pytest.mark.fault("B4")
async def test_two_hundred_reconnects_leave_one_connection(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    timing = replace(QUICK, healthy=0.001, backoff=0.001)
    async with RowWatcher(orders, listen_url=proxy.url, timing=timing) as watcher:
        for n in range(200):
            proxy.cut()
            await watcher.reached(reconnected(n, armed=0))
        assert len(await listeners(orders)) == 1


@pytest.mark.fault("B2", "B3")
async def test_a_half_open_connection_is_found_by_the_heartbeat(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    async with RowWatcher(orders, listen_url=proxy.url, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        proxy.stall()
        await change(orders)
        assert (await seen(wait)).n == 1
        assert watcher.statistics().state is POLLING
        proxy.resume()
        await watcher.reached(lambda now: now.state is LISTENING)


@pytest.mark.fault("B1")
async def test_a_restarted_server_is_found_again() -> None:
    """A server of the test's own is restarted while a wait is armed, and crashes during another."""
    with EmbeddedServer() as server:
        engine = create_async_engine(server.url, pool_pre_ping=True)
        async with engine.begin() as connection:
            await connection.execute(text('CREATE SCHEMA "Select"'))
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Order), [{"id": 1}])
        async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
            for stop in (server.restart, server.stop):
                wait = await armed_wait(watcher)
                stop()
                await watcher.reached(lambda now: now.state is POLLING)
                if stop == server.stop:
                    server.start()
                await execute(engine, update(Order).values(n=Order.n + 1))
                due()
                await seen(wait)
                await watcher.reached(lambda now: now.state is LISTENING)
        await engine.dispose()


@pytest.mark.fault("B13")
async def test_a_pooler_that_delivers_nothing_is_found_out(
    orders: AsyncEngine, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """LISTEN is accepted, nothing arrives: polled, with one warning that names the remedy."""
    proxy.deaf = True
    async with RowWatcher(orders, listen_url=proxy.url, timing=QUICK) as watcher:
        now = watcher.statistics()
        assert (now.state, now.reason) == (POLLING, Reason.NOT_DELIVERED)
        wait = await polled_wait(watcher, interval=0.02)
        await change(orders)
        assert (await seen(wait)).n == 1
        await proxy.has_accepted(proxy.accepted + 1)  # it is tried again
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "listen_url" in warnings[0].getMessage()


@pytest.mark.fault("B13")
async def test_listen_mode_raises_where_nothing_is_delivered(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    proxy.deaf = True
    with pytest.raises(ListenError, match="not_delivered"):
        await RowWatcher(orders, mode="listen", listen_url=proxy.url, timing=QUICK).__aenter__()
    assert await listeners(orders) == []


@pytest.mark.fault("B5", "B6")
async def test_a_server_that_cannot_be_reached_is_polled_without_a_log_storm(
    orders: AsyncEngine, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refusing = True
    async with RowWatcher(orders, listen_url=proxy.url, timing=QUICK) as watcher:
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
                await asyncio.sleep(0.01)  # a stretch of time in which nothing may happen
            assert proxy.accepted <= 2  # the second is asyncpg's, which tries SSL first
    await engine.dispose()


async def test_a_ring_whose_reads_fail_is_not_forgotten(
    orders: AsyncEngine, database: URL, proxy: Proxy
) -> None:
    """LISTEN goes on, the reads do not: the announced change is read at the interval."""
    engine = create_async_engine(proxy.url, poolclass=NullPool)
    async with RowWatcher(engine, listen_url=database, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        proxy.refusing = True
        accepted = proxy.accepted
        await change(orders)
        await proxy.has_accepted(accepted + 6)
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1


async def test_a_condition_whose_reads_fail_is_asked_again(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the predicate would have been asked about is not lost with the connection."""
    from rowbell._watch.reading import batch

    load, failures = batch.finish, [ConnectionResetError("gone"), ConnectionResetError("gone")]

    def finish(*arguments: Any) -> int:
        if arguments[2] and failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr("rowbell._watch.reading.reader.finish", finish)
    async with RowWatcher(orders, mode="poll") as watcher:
        order = await watcher.wait_for_change(
            Order, 1, interval=0.02, timeout=20, until=lambda order: order.n == 0, since={"n": 0}
        )
    assert order.n == 0


@pytest.mark.fault("B12")
async def test_hooks_that_rotate_credentials_serve_the_listen_connection(
    orders: AsyncEngine, database: URL
) -> None:
    """The engine's do_connect hooks are asked for each connection, with listen_url too."""
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
        async with RowWatcher(engine, mode="listen", listen_url=listen_url, timing=QUICK):
            before = len(asked)
            assert before >= 1
            await kill_listener(orders)
            while len(asked) == before:
                await asyncio.sleep(0.01)  # the hook is synchronous: nobody to wait for


async def test_the_engines_own_connect_args_make_the_listen_connection(
    orders: AsyncEngine, database: URL
) -> None:
    arguments = {"server_settings": {"application_name": "shop"}}
    engine = create_async_engine(database, connect_args=arguments)
    async with RowWatcher(engine, mode="listen"):
        [listener] = await listeners(orders)
    assert (listener.application_name, listener.state) == ("rowbell shop", "idle")
    await engine.dispose()


@pytest.mark.fault("B9", "B34")
async def test_a_pool_full_of_waiting_sessions_is_no_deadlock(
    orders: AsyncEngine, database: URL
) -> None:
    """All connections of the pool are held by sessions that wait; their reads still happen."""
    engine = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=5)
    for n, mode in enumerate(("poll", "listen")):
        async with (
            RowWatcher(engine, mode=mode, timing=QUICK) as watcher,
            AsyncSession(engine) as one,
            AsyncSession(engine) as two,
        ):
            await asyncio.gather(one.connection(), two.connection())
            waits = [
                asyncio.create_task(
                    wait_for_row_change(
                        session, Order, 2, interval=0.05, timeout=10, since={"n": n}
                    )
                )
                for session in (one, two)
            ]
            await watcher.reached(lambda now: now.armed + now.polled == 2 and now.queries > 0)
            await change(orders, 2)
            for wait in waits:
                await wait
    await engine.dispose()


async def test_a_reading_that_fails_for_a_while_is_repeated(
    database: URL, proxy: Proxy, orders: AsyncEngine
) -> None:
    engine = create_async_engine(proxy.url, pool_pre_ping=True)
    async with RowWatcher(engine, mode="poll", timing=QUICK) as watcher:
        wait = await polled_wait(watcher, interval=0.02)
        proxy.refusing = True
        proxy.cut()
        await change(orders)
        accepted = proxy.accepted
        await proxy.has_accepted(accepted + 3)
        assert not wait.done()
        proxy.refusing = False
        due()
        assert (await seen(wait)).n == 1
    await engine.dispose()


@pytest.mark.fault("B32")
async def test_a_server_that_does_not_answer_ends_no_later_than_the_last_read(
    proxy: Proxy, orders: AsyncEngine
) -> None:
    engine = create_async_engine(proxy.url)
    timing = Timing(last_read=0.2, close=0.1)
    watcher = RowWatcher(engine, mode="poll", timing=timing)
    async with watcher:
        wait = await polled_wait(watcher, interval=0.02, timeout=0.3)
        proxy.stall()
        with pytest.raises(WaitTimeoutError, match="has not answered"):
            await wait
        proxy.resume()
    await engine.dispose()


async def test_a_rung_row_that_a_lock_hides_holds_up_no_other_table(
    orders: AsyncEngine,
) -> None:
    await execute(orders, "INSERT INTO items VALUES (1, 1, '')")
    async with (
        RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher,
        orders.connect() as locker,
    ):
        first = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=60, timeout=20))
        other = asyncio.create_task(watcher.wait_for_change(Item, 1, interval=60, timeout=20))
        await watcher.reached(lambda now: now.armed == 2)
        await locker.execute(update(Order).where(Order.id == 1).values(n=1))
        await locker.commit()
        await first
        await locker.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        blocked = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=60, timeout=20))
        await execute(orders, update(Item).values(name="changed"))
        assert (await other).name == "changed"
        await locker.execute(update(Order).where(Order.id == 2).values(n=1))
        await locker.commit()
        blocked.cancel()
        await asyncio.wait([blocked])


@pytest.mark.fault("B29")
async def test_a_dropped_trigger_is_noticed_and_its_return_too(
    orders: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        await execute(database, "DROP TRIGGER rowbell_update ON orders")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        await change(orders)
        assert (await seen(wait)).n == 1
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        await run(orders, install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1 and now.reason is None)
        await change(orders)
        assert (await seen(wait)).n == 2
    assert "table orders" in caplog.text


@pytest.mark.fault("B26")
async def test_a_change_that_was_muted_is_seen_at_the_next_heartbeat(
    orders: AsyncEngine, database: URL
) -> None:
    """SET rowbell.notify = off, as two-phase commit needs it: late, never lost."""
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.connect() as connection:
            await connection.execute(text("SET LOCAL rowbell.notify = off"))
            await connection.execute(update(Order).where(Order.id == 1).values(n=1))
            await connection.execute(text("PREPARE TRANSACTION 'one'"))
            await connection.rollback()
        heard = watcher.statistics().notifications
        await watcher.reached(lambda now: now.polled == 1)
        await execute(database, "COMMIT PREPARED 'one'")
        assert (await seen(wait)).n == 1
        assert watcher.statistics().notifications == heard


async def test_an_old_transaction_elsewhere_delays_arming_only_shortly(
    orders: AsyncEngine, server: URL
) -> None:
    """A transaction that wrote something else hours ago keeps nobody polling."""
    elsewhere = create_async_engine(server, poolclass=NullPool)
    async with (
        elsewhere.connect() as old,
        RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher,
    ):
        await old.execute(text("SELECT pg_current_xact_id()"))
        wait = await armed_wait(watcher)
        await change(orders)
        assert (await seen(wait)).n == 1
    await elsewhere.dispose()


@pytest.mark.fault("B7")
async def test_an_old_writer_of_the_table_is_waited_for(orders: AsyncEngine) -> None:
    """Its change rang nobody, so the watch is not armed before it has ended."""
    async with (
        orders.connect() as writer,
        RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher,
    ):
        await writer.execute(update(Order).where(Order.id == 1).values(n=1))
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        queries = 0
        for _ in range(5):
            await watcher.reached(has_read(queries))
            queries = watcher.statistics().queries
            assert watcher.statistics().armed == 0
        await writer.commit()
        assert (await seen(wait)).n == 1
