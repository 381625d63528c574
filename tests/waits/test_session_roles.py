"""Sessions under row-level security, and sessions that act as another role."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import URL, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from rowbell import NotFoundError, Reason, RowWatcher, wait_for_row_change
from support.catalogue import seen
from support.models import Order
from support.observed import execute
from support.orders import CHANGE
from support.roles import role
from support.tasks import Task, set_state
from support.waits import QUICK, polled_because


@asynccontextmanager
async def tenants(database: URL) -> AsyncGenerator[AsyncEngine]:
    """An engine. A setting names the tenant, and the engine's role sees only that tenant's rows."""
    grants = (
        "GRANT SELECT, UPDATE ON tasks, steps TO {role}",
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON tasks USING (tenant = current_setting('app.tenant', true))",
    )
    async with role(database, *grants) as url:
        engine = create_async_engine(url)
        yield engine
        await engine.dispose()


async def test_a_session_under_row_level_security_waits_as_it_sees(
    tasks: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads on its own connection, whose settings decide which rows it sees, and reports why."""
    async with tenants(database) as engine, AsyncSession(engine) as session:
        await session.execute(text("SELECT set_config('app.tenant', 'a', true)"))
        with caplog.at_level(logging.WARNING, "rowbell"):
            seen = {"state": "public"}
            wait = asyncio.create_task(
                wait_for_row_change(session, Task, 1, since=seen, interval=0.02, timeout=20)
            )
            await set_state(tasks, "changed")
            assert (await wait).state == "changed"
        assert "own_connection" in caplog.text
        await session.rollback()
        await session.execute(text("SELECT set_config('app.tenant', 'b', true)"))
        with pytest.raises(NotFoundError, match="not found"):
            await wait_for_row_change(session, Task, 1, timeout=5)


async def test_a_session_that_acts_as_another_role_waits_with_its_rights(
    tasks: AsyncEngine, database: URL
) -> None:
    """The engine's role may read the table, but the role of the session's SET ROLE may not."""
    async with role(database) as url, AsyncSession(tasks) as session:
        await session.execute(text(f"SET LOCAL ROLE {url.username}"))
        with pytest.raises(DBAPIError, match="permission denied"):
            await wait_for_row_change(session, Task, 1, timeout=5)


async def test_a_role_that_all_connections_take_is_no_other_role(
    tasks: AsyncEngine, database: URL
) -> None:
    grant = "GRANT SELECT ON tasks, steps TO {role}"
    async with role(database, grant) as url:
        engine = create_async_engine(database)

        @event.listens_for(engine.sync_engine, "connect")
        def take_role(connection: Any, _: object) -> None:
            connection.cursor().execute(f"SET ROLE {url.username}")
            connection.commit()

        async with RowWatcher(engine, mode="poll") as watcher, AsyncSession(engine) as session:
            await session.get_one(Task, 1)
            wait = asyncio.create_task(wait_for_row_change(session, Task, 1, interval=0.02))
            await watcher.reached(lambda now: now.polled == 1)  # the watcher polls, not the session
            wait.cancel()
        await engine.dispose()


async def test_a_session_that_sets_its_tenant_as_it_begins_loads_the_row_itself(
    tasks: AsyncEngine,
) -> None:
    """Its ``after_begin`` hook may decide which rows it sees, so it gets no ready instance."""
    async with AsyncSession(tasks) as session:
        begun: list[str] = []
        event.listen(session.sync_session, "after_begin", lambda *_: begun.append("begun"))
        task = await wait_for_row_change(session, Task, 1, since={"state": "old"}, timeout=5)
        assert task in session
        assert begun


@pytest.mark.fault("B44")
async def test_a_session_waits_for_the_rows_that_its_setting_lets_it_see(
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
        wait = await polled_because(watcher, Reason.ROW_LEVEL_SECURITY)
        await execute(database, CHANGE)
        await seen(wait)
    await engine.dispose()
    await execute(database, "DROP OWNED BY tenant_of_rows", "DROP ROLE tenant_of_rows")
