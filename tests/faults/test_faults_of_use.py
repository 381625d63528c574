"""What may befall waits by the way they are used: timeouts, pools, processes, migrations."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import (
    NotFoundError,
    Reason,
    RowWatcher,
    Timing,
    WaitTimeoutError,
    WatcherState,
    wait_for_row_change,
)
from rowbell.testing import create_database, drop_database
from support.catalogue import due, seen
from support.models import Base, Order
from support.observed import blocked, execute, listeners, none_left
from support.orders import CHANGE
from support.paths import PYTHONPATH
from support.waits import QUICK, armed, armed_wait, polled_wait, run


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, 1_001)]


@pytest.mark.fault("B17")
async def test_a_wait_without_a_watcher_leaves_no_session(
    orders: AsyncEngine, database: URL
) -> None:
    async with AsyncSession(orders) as session:
        wait = asyncio.create_task(
            wait_for_row_change(session, Order, 1, since={"n": 0}, timeout=60)
        )
        await execute(database, CHANGE)
        await seen(wait)
    await orders.dispose()
    await none_left(orders)


@pytest.mark.fault("B23")
async def test_statements_that_change_nothing_wake_nobody(orders: AsyncEngine) -> None:
    """Not even the listener: no notification is sent."""
    idle = [
        "UPDATE orders SET n = n",
        "UPDATE orders SET n = 5 WHERE false",
        "DELETE FROM orders WHERE false",
        "INSERT INTO orders (id, status, n) VALUES (1, '', 7) ON CONFLICT DO NOTHING",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET n = orders.n",
    ]
    async with armed(orders) as (watcher, wait):
        async with orders.connect() as connection:
            for statement in idle:
                await connection.execute(text(statement))
                await connection.commit()
            assert watcher.statistics().notifications == 0
            await connection.execute(text(CHANGE))
            await connection.commit()
        due()
        await seen(wait)
        assert watcher.statistics().notifications == 1


@pytest.mark.fault("B30")
async def test_autogenerate_finds_nothing_to_do_and_leaves_others_triggers_alone(
    engine: AsyncEngine, database: URL
) -> None:
    await execute(
        database,
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER audit AFTER UPDATE ON orders EXECUTE FUNCTION audit()",
    )

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: (kind, name) != ("schema", "rowbell"),
            },
        )
        found: list[Any] = compare_metadata(context, Base.metadata)
        return [d for d in found if "rowbell" in repr(d)]

    async with engine.begin() as connection:
        assert await connection.run_sync(differences) == []
    await run(engine, rowbell.remove_triggers, Order)
    await run(engine, rowbell.install_triggers, Order)
    async with engine.connect() as connection:
        audits = text("SELECT count(*) FROM pg_trigger WHERE tgname = 'audit'")
        assert await connection.scalar(audits) == 1


@pytest.mark.fault("B32")
async def test_reads_that_are_slow_count_in_the_timeout(orders: AsyncEngine) -> None:
    """Half a second is half a second, though each read waits for a lock."""
    timing = Timing(last_read=0.3)
    async with RowWatcher(orders, mode="poll", timing=timing) as watcher, orders.connect() as c:
        wait = await polled_wait(watcher, interval=0.02, timeout=0.5)
        await c.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        begun = asyncio.get_running_loop().time()
        with pytest.raises(WaitTimeoutError):
            await wait
        assert asyncio.get_running_loop().time() - begun < 2


@pytest.mark.fault("B33")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_what_the_caller_has_not_committed_is_no_change_for_him(
    orders: AsyncEngine, mode: str
) -> None:
    async with RowWatcher(orders, mode=mode), AsyncSession(orders) as session:
        await session.execute(update(Order).where(Order.id == 1).values(n=5))
        with pytest.raises(WaitTimeoutError):
            await wait_for_row_change(session, Order, 1, interval=0.02, timeout=0.2)
        await session.commit()
        due()
        order = await seen(wait_for_row_change(session, Order, 1, since={"n": 0}, timeout=20))
        assert order.n == 5


@pytest.mark.fault("B34")
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_thousand_waits_leave_a_pool_of_two_to_the_application(
    orders: AsyncEngine, database: URL, mode: str
) -> None:
    """It finds its connection each time, and none is idle in a transaction."""
    small = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=2)
    async with RowWatcher(small, mode=mode, recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, interval=0.3, timeout=60))
            for i in range(1, 1001)
        ]
        await watcher.reached(
            lambda now: now.armed == 1000 if mode == "listen" else now.rereads > 1000
        )
        idle = text(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(50):
            async with small.connect() as connection:
                assert await connection.scalar(idle) == 0
        await execute(database, "UPDATE orders SET n = n + 1")
        await seen(asyncio.gather(*waits))
    await small.dispose()


@pytest.mark.fault("B36")
async def test_two_hundred_thousand_notifications_of_one_row_are_few_reads(
    orders: AsyncEngine, database: URL
) -> None:
    """Each names the row that is waited for. A wake is a flag, so memory stays flat."""
    flood = (
        "SELECT count(pg_notify('rowbell', '1:' || r.table_oid || ':' || r.key_hash || ',' || i))"
        " FROM rowbell.registration AS r, generate_series(1, 10000) AS i"
    )
    async with armed(orders) as (watcher, wait):
        before = watcher.statistics().rereads
        tracemalloc.start()
        try:
            for _ in range(20):
                await execute(database, flood)
            await watcher.reached(lambda now: now.notifications >= 200_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 30_000_000
        assert watcher.statistics().rereads - before < 2_000
        assert not wait.done()
        await execute(database, CHANGE)
        await seen(wait)


@pytest.mark.fault("B37")
async def test_a_wait_that_is_cancelled_at_any_turn_of_the_loop_leaves_nothing(
    orders: AsyncEngine, database: URL
) -> None:
    """Two hundred turns, one wait for each, with a change on its way."""
    before = asyncio.all_tasks()
    async with RowWatcher(orders, timing=QUICK) as watcher:
        running = asyncio.all_tasks()
        for turns in range(200):
            async with AsyncSession(orders) as session:
                wait = asyncio.create_task(wait_for_row_change(session, Order, 1, since={"n": -1}))
                for _ in range(turns):
                    await asyncio.sleep(0)
                wait.cancel()
                await asyncio.wait([wait])
                assert wait.cancelled() or not wait.exception()
        now = watcher.statistics()
        assert now.armed + now.polled == 0
        while orders.pool.checkedout():  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)  # a read that was under way for them
        await watcher.reached(lambda _: asyncio.all_tasks() <= running)
    assert asyncio.all_tasks() == before


APP = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from support.models import Order
from rowbell import RowWatcher

engine = create_async_engine(os.environ["DATABASE_URL"])

@asynccontextmanager
async def lifespan(app):
    async with RowWatcher(engine) as app.state.watcher:
        yield

app = FastAPI(lifespan=lifespan)

@app.get("/waiting")
async def waiting():
    return app.state.watcher.statistics().armed

@app.get("/orders/{key}")
async def order(key: int):
    return (await app.state.watcher.wait_for_change(Order, key, timeout=60)).n
"""


async def _serve(
    database: URL, directory: Path, *options: str
) -> tuple[asyncio.subprocess.Process, str]:
    """Uvicorn with that app, in a process of its own."""
    (directory / "app.py").write_text(APP)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "app:app", "--port", "0", *options),
        cwd=directory,
        env={
            "DATABASE_URL": database.render_as_string(hide_password=False),
            "PYTHONPATH": f"{directory}{os.pathsep}{PYTHONPATH}",
            "PATH": "",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    while "running on" not in (line := (await process.stderr.readline()).decode()):
        assert line, "".join(lines)
        lines.append(line)
    return process, line.split("running on ")[1].split()[0]


@pytest.mark.fault("B38")
async def test_a_server_that_is_told_to_stop_stops_while_requests_wait(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    """In the time that uvicorn is given for it; no session is left, nothing is complained of."""
    process, url = await _serve(database, tmp_path, "--timeout-graceful-shutdown", "1")
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        requests = [asyncio.create_task(client.get(f"/orders/{i}")) for i in range(1, 51)]
        while (await client.get("/waiting")).json() < 50:
            await asyncio.sleep(0.02)
        begun = asyncio.get_running_loop().time()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        await process.wait()
        assert asyncio.get_running_loop().time() - begun < 10
        await asyncio.gather(*requests, return_exceptions=True)
    assert "was destroyed" not in said
    assert "never retrieved" not in said
    await orders.dispose()
    await none_left(orders)


WORKER = """
import asyncio, os, sys
from sqlalchemy.ext.asyncio import create_async_engine
from support.models import Order
from rowbell import RowWatcher, Timing

async def main():
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with RowWatcher(engine, mode="listen", recheck=None, timing=Timing(heartbeat=0.1)) as w:
        wait = asyncio.create_task(w.wait_for_change(Order, int(sys.argv[1]), timeout=60))
        await w.reached(lambda now: now.armed == 1)
        print("armed", flush=True)
        print((await wait).n, flush=True)
    await engine.dispose()

asyncio.run(main())
"""


@pytest.mark.fault("B40")
async def test_several_processes_have_a_listener_each_and_one_that_is_killed_harms_none(
    orders: AsyncEngine, database: URL
) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, str(key)),
            env={
                "DATABASE_URL": database.render_as_string(hide_password=False),
                "PYTHONPATH": PYTHONPATH,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        for key in range(1, 5)
    ]
    outputs = [process.stdout for process in processes]
    for output in outputs:
        assert output is not None
        assert await output.readline() == b"armed\n"
    assert len(await listeners(orders)) == 4
    processes[0].kill()
    async with orders.connect() as connection:
        registered = text("SELECT count(*) FROM rowbell.registration")
        while await connection.scalar(registered) != 3:  # by the heartbeat of another
            await connection.commit()
            await asyncio.sleep(0.02)
        await connection.execute(update(Order).values(n=1))
        await connection.commit()
    due()
    for process, output in zip(processes[1:], outputs[1:], strict=True):
        assert output is not None
        assert await seen(output.readline()) == b"1\n"
        assert await process.wait() == 0
    await processes[0].wait()


@pytest.mark.fault("B41")
async def test_a_database_is_dropped_under_a_listener_that_reconnects(server: URL) -> None:
    quick = Timing(backoff=0.001, backoff_limit=0.001)
    for number in range(10):
        name = f"dropped_{number}"
        url = server.set(database=name)
        await create_database(name, server_url=server)
        engine = create_async_engine(url)
        async with RowWatcher(engine, timing=quick) as watcher:
            await drop_database(name, server_url=server)
            await watcher.reached(lambda now: now.state is WatcherState.POLLING)
        await engine.dispose()


class VersionedBase(DeclarativeBase):
    pass


class Versioned(VersionedBase):
    """What counts each change of a row."""

    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    version: Mapped[int]


@pytest.mark.fault("B42")
@pytest.mark.parametrize("installed", [True, False])
async def test_there_and_back_is_a_change_of_a_version_column_alone(
    engine: AsyncEngine, database: URL, installed: bool
) -> None:
    """Two commits while no read can happen: the status was always "a", the version was not."""
    async with engine.begin() as connection:
        await connection.run_sync(VersionedBase.metadata.create_all)
        await connection.execute(insert(Versioned).values(id=1, status="a", version=1))
    if installed:
        await run(engine, rowbell.install_triggers, Versioned)
    async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(
                    Versioned, 1, columns=[column], interval=0.05, timeout=timeout
                )
            )
            for column, timeout in (("status", 2), ("version", 60))
        ]
        await watcher.reached(lambda now: now.armed == 2 if installed else now.rereads > 2)
        async with engine.connect() as one:
            # Both commits are seen by nobody: the lock lets no read in between them.
            await one.execute(text("LOCK TABLE versioned IN ACCESS EXCLUSIVE MODE"))
            await one.execute(text("UPDATE versioned SET status = 'b', version = 2"))
            await one.execute(text("UPDATE versioned SET status = 'a', version = 3"))
            await one.commit()
        due()
        assert (await seen(waits[1])).version == 3
        with pytest.raises(WaitTimeoutError):
            await waits[0]


@pytest.mark.fault("B44")
async def test_row_level_security_by_a_setting_of_the_session(
    orders: AsyncEngine, database: URL
) -> None:
    """The wait sees what its session sees, on the session's own connection."""
    await execute(
        database,
        "DROP ROLE IF EXISTS tenant_of_rows",
        "CREATE ROLE tenant_of_rows LOGIN",
        "GRANT SELECT ON orders TO tenant_of_rows",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON orders USING (status = current_setting('app.tenant', true))",
    )
    mine = database.set(username="tenant_of_rows")
    engine = create_async_engine(mine)
    async with AsyncSession(engine) as session:
        await session.execute(text("SET LOCAL app.tenant = 'another'"))
        with pytest.raises(NotFoundError):
            await wait_for_row_change(session, Order, 1, timeout=20)
        await session.rollback()
        await session.execute(text("SET LOCAL app.tenant = 'new'"))
        known = {"n": -1}
        await wait_for_row_change(session, Order, 1, since=known, timeout=20)
        own = asyncio.create_task(
            wait_for_row_change(session, Order, 1, since={"n": 0}, interval=0.05, timeout=60)
        )
        await execute(database, CHANGE)
        await seen(own)
    await engine.dispose()
    settings = {"server_settings": {"app.tenant": "new"}}
    engine = create_async_engine(mine, connect_args=settings)
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=60))
        await watcher.reached(lambda now: now.reason is Reason.ROW_LEVEL_SECURITY)
        await execute(database, CHANGE)
        await seen(wait)
    await engine.dispose()
    await execute(database, "DROP OWNED BY tenant_of_rows", "DROP ROLE tenant_of_rows")


@pytest.mark.fault("B44")
async def test_a_translated_schema_of_the_session_alone(orders: AsyncEngine, database: URL) -> None:
    """Given to the session's connection, as tenants are told apart."""
    await execute(
        database,
        "CREATE SCHEMA tenant",
        "CREATE TABLE tenant.orders (LIKE public.orders INCLUDING ALL)",
        "INSERT INTO tenant.orders (id, status, n) VALUES (1, '', 0)",
    )
    async with orders.connect() as plain:
        translated = await plain.execution_options(schema_translate_map={None: "tenant"})
        async with AsyncSession(translated) as session:
            wait = asyncio.create_task(
                wait_for_row_change(session, Order, 1, interval=0.05, timeout=60)
            )
            await asyncio.sleep(0.2)  # not for something: it is polled meanwhile
            await execute(database, CHANGE)
            await asyncio.sleep(0.2)  # a change of the other table, which is none
            assert not wait.done()
            await execute(database, "UPDATE tenant.orders SET n = 9")
            assert (await seen(wait)).n == 9


@pytest.mark.fault("B46")
async def test_the_schema_goes_under_a_wait_and_comes_back(
    orders: AsyncEngine, database: URL
) -> None:
    """Dropped together with a change: polled, and after the migration armed again."""
    async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, interval=0.05)
        async with orders.begin() as connection:
            await connection.execute(text("DROP SCHEMA rowbell CASCADE"))
            await connection.execute(text(CHANGE))
        due()
        await seen(wait)
        await watcher.reached(lambda now: now.reason is Reason.NOT_INSTALLED)
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=60))
        await run(orders, rowbell.install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, CHANGE)
        await seen(wait)


@pytest.mark.fault("B19")
async def test_a_reader_that_stays_keeps_no_other_reader_waiting_for_our_ddl(
    orders: AsyncEngine,
) -> None:
    """As pg_dump does: removing gives up in time, and says which lock it wanted."""
    async with orders.connect() as dump, orders.connect() as reader:
        await dump.execute(text("LOCK TABLE orders IN ACCESS SHARE MODE"))
        removing = asyncio.create_task(
            run(orders, rowbell.remove_triggers, Order, lock_timeout="300ms")
        )
        await blocked(orders)
        await reader.execute(text("SELECT count(*) FROM orders"))
        with pytest.raises(rowbell.LockTimeoutError, match="ACCESS EXCLUSIVE"):
            await removing
