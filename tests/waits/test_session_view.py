"""A session whose connection finds the row in another schema than other connections do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import joinedload

from rowbell import RowWatcher, SessionStateError, wait_for_row_change
from support.catalogue import seen
from support.models import Order
from support.observed import execute
from support.orders import CHANGE
from support.tasks import Task, set_state
from support.waits import armed_wait


async def enter_by_map(session: AsyncSession) -> None:
    options = {"schema_translate_map": {None: "one"}}
    await session.connection(execution_options=options)


async def enter_by_path(session: AsyncSession) -> None:
    await session.execute(text("SET LOCAL search_path TO one, public"))


@pytest.mark.parametrize(
    ("enter", "mode"),
    [(enter_by_map, "listen"), (enter_by_map, "poll"), (enter_by_path, "own connection")],
)
async def test_a_session_waits_for_the_row_of_its_own_tenant(
    tasks: AsyncEngine, enter: Any, mode: str
) -> None:
    """Its waits use the search_path of its connection, armed or polled."""
    watching = RowWatcher(tasks, mode="poll" if mode == "poll" else "listen", recheck=None)
    async with watching as watcher, AsyncSession(tasks) as session:
        await enter(session)
        assert (await session.get_one(Task, 1)).state == "one"
        seen = {"state": "one"}
        wait = asyncio.create_task(
            wait_for_row_change(session, Task, 1, since=seen, interval=0.05, timeout=20)
        )
        if mode == "listen":
            await watcher.reached(lambda now: now.armed == 1)
        elif mode == "poll":
            await watcher.reached(lambda now: now.queries > 1)
        before = watcher.statistics().rereads
        await set_state(tasks, "of another")
        if mode == "poll":
            await watcher.reached(lambda now: now.rereads > before + 1)
        await asyncio.sleep(0.1)  # a wait for the other row would end within this time
        assert not wait.done()
        await set_state(tasks, "changed", "one")
        assert (await wait).state == "changed"


async def test_what_the_row_refers_to_is_found_where_the_session_finds_it(
    tasks: AsyncEngine,
) -> None:
    """A type, or a related table that is loaded too, may be in another schema of the path."""
    await execute(tasks, "DROP TABLE one.steps")
    async with AsyncSession(tasks) as session:
        await enter_by_path(session)
        options = [joinedload(Task.steps)]
        waiting = wait_for_row_change(
            session, Task, 1, until=lambda task: not task.steps, options=options, timeout=5
        )
        assert (await waiting).state == "one"


async def test_a_search_path_that_all_connections_have_is_armed(
    tasks: AsyncEngine, database: URL
) -> None:
    settings = {"server_settings": {"search_path": "one, public"}}
    engine = create_async_engine(database, connect_args=settings)
    async with RowWatcher(engine, mode="listen") as watcher, AsyncSession(engine) as session:
        await session.get_one(Task, 1)
        wait = await armed_wait(watcher, session, Task, 1)
        await set_state(tasks, "changed", "one")
        assert (await wait).state == "changed"
    await engine.dispose()


async def test_a_temporary_table_is_refused(tasks: AsyncEngine) -> None:
    async with AsyncSession(tasks) as session:
        await session.execute(text("CREATE TEMPORARY TABLE tasks (LIKE tasks)"))
        with pytest.raises(SessionStateError, match="tasks is a temporary table"):
            await wait_for_row_change(session, Task, 1)


@pytest.mark.fault("B44")
async def test_a_session_waits_in_the_translated_schema_of_its_connection(
    orders: AsyncEngine, database: URL
) -> None:
    """The map is an option of the session's connection, which is common for tenants."""
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
            await asyncio.sleep(0.2)  # it is polled during this time
            await execute(database, CHANGE)
            await asyncio.sleep(0.2)  # only the other table was changed
            assert not wait.done()
            await execute(database, "UPDATE tenant.orders SET n = 9")
            assert (await seen(wait)).n == 9
