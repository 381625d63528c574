"""A session whose own connection sees the row in another way than the engine's others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import URL, event, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    with_loader_criteria,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.schema import CreateSchema, ForeignKey

import rowbell
from rowbell import NotFoundError, RowWatcher, SessionStateError, wait_for_row_change
from rowbell._cancellation import CLEANUP_SECONDS
from rowbell.testing import rolled_back_session
from support.models import Order
from support.observed import blocked, execute
from support.roles import role
from support.waits import armed_wait


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="new")
    version: Mapped[int] = mapped_column(default=1)
    tenant: Mapped[str] = mapped_column(default="a")
    deleted: Mapped[bool] = mapped_column(default=False)
    steps: Mapped[list[Step]] = relationship()
    __mapper_args__ = {"version_id_col": version}


class Step(Base):
    __tablename__ = "steps"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))


@pytest.fixture
async def tasks(engine: AsyncEngine) -> AsyncEngine:
    """Task 1 in the schema public, and another task 1 in each of two tenants'."""
    for tenant in (None, "one", "two"):
        options = {"schema_translate_map": {None: tenant}}
        async with engine.execution_options(**options).begin() as connection:
            if tenant:
                await connection.execute(CreateSchema(tenant, if_not_exists=True))
            await connection.run_sync(Base.metadata.create_all)
            await connection.run_sync(rowbell.install_triggers, Task)
            await connection.execute(insert(Task).values(id=1, state=tenant or "public"))
    return engine


async def set_state(engine: AsyncEngine, state: str, schema: str = "public") -> None:
    await execute(
        engine, f"UPDATE {schema}.tasks SET state = '{state}', version = version + 1 WHERE id = 1"
    )


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
    """What its connection was told of schemas holds for its waits, armed or polled."""
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
        await asyncio.sleep(0.1)  # in which a wait for the other row would end
        assert not wait.done()
        await set_state(tasks, "changed", "one")
        assert (await wait).state == "changed"


async def test_what_the_row_refers_to_is_found_where_the_session_finds_it(
    tasks: AsyncEngine,
) -> None:
    """A type, or a table that is loaded along, may be in another schema of the search_path."""
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


async def test_a_session_on_a_connection_in_autocommit_waits(engine: AsyncEngine) -> None:
    """There is no SAVEPOINT there, and none is needed."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(connection) as session:
            session.add(Order(id=1))
            await session.commit()
            await session.get_one(Order, 1)
            order = await wait_for_row_change(session, Order, 1, since={"n": 7}, timeout=5)
            assert order.n == 0


async def test_a_statement_of_anothers_that_fails_ends_no_wait(engine: AsyncEngine) -> None:
    """It is undone by whoever sent it; the wait reads again."""
    more: dict[str, Any] = {"join_transaction_mode": "create_savepoint"}
    async with engine.connect() as connection, connection.begin():
        async with AsyncSession(connection, **more) as writer:
            writer.add(Order(id=1))
            await writer.commit()
            async with AsyncSession(connection, **more) as waiter:
                wait = asyncio.create_task(
                    wait_for_row_change(waiter, Order, 1, interval=0.001, timeout=20)
                )
                for _ in range(20):
                    with pytest.raises(DBAPIError):
                        await writer.execute(insert(Order).values(id=1))
                    await writer.rollback()
                await writer.execute(update(Order).values(n=1))
                await writer.commit()
                assert (await wait).n == 1


async def test_a_wait_that_is_cancelled_leaves_the_callers_connection_as_it_was(
    engine: AsyncEngine,
) -> None:
    """Whatever moment of its reads it meets."""
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        session.add(Order(id=1))
        await session.commit()
        for moment in range(100):
            wait = asyncio.create_task(wait_for_row_change(session, Order, 1, interval=0.001))
            for _ in range(moment % 25):
                await asyncio.sleep(0)  # not for something: another moment each time
            if moment >= 50:
                await asyncio.sleep(0.0005)  # the same, between two reads
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            assert await session.scalar(select(Order.id)) == 1


async def test_a_read_on_the_callers_connection_may_wait_for_long(engine: AsyncEngine) -> None:
    """A lock on the table holds it up; nobody was cancelled, so nothing is cut short."""
    async with AsyncSession(engine) as session:
        session.add(Order(id=1))
        await session.commit()
    async with rolled_back_session(engine) as session, engine.connect() as holder:
        await session.execute(select(1))
        await holder.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        wait = asyncio.create_task(
            wait_for_row_change(session, Order, 1, since={"n": 7}, interval=0.01, timeout=20)
        )
        await blocked(engine)
        await asyncio.sleep(CLEANUP_SECONDS + 0.2)  # longer than a clean-up may take
        await holder.rollback()
        assert (await wait).n == 0


async def test_a_temporary_table_is_refused(tasks: AsyncEngine) -> None:
    async with AsyncSession(tasks) as session:
        await session.execute(text("CREATE TEMPORARY TABLE tasks (LIKE tasks)"))
        with pytest.raises(SessionStateError, match="tasks is a temporary table"):
            await wait_for_row_change(session, Task, 1)


async def test_a_failed_transaction_is_refused_with_the_way_out(tasks: AsyncEngine) -> None:
    async with AsyncSession(tasks) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
        with pytest.raises(SessionStateError, match=r"rollback\(\) before the wait"):
            await wait_for_row_change(session, Task, 1)


async def test_a_read_only_session_waits_as_any_other(tasks: AsyncEngine) -> None:
    async with RowWatcher(tasks, mode="listen") as watcher, AsyncSession(tasks) as session:
        await session.connection(execution_options={"postgresql_readonly": True})
        wait = await armed_wait(watcher, session, Task, 1)
        await set_state(tasks, "changed")
        assert (await wait).state == "changed"


async def test_a_session_without_a_transaction_that_begins_none_is_refused(
    tasks: AsyncEngine,
) -> None:
    """At the call, not after the wait."""
    async with AsyncSession(tasks, autobegin=False) as session:
        with pytest.raises(SessionStateError, match=r"autobegin=False .* session.begin\(\)"):
            await wait_for_row_change(session, Task, 1)
        async with session.begin():
            wait = asyncio.create_task(
                wait_for_row_change(session, Task, 1, interval=0.02, since={"state": "old"})
            )
            assert (await wait).state == "public"


# -- row-level security, roles


@asynccontextmanager
async def tenants(database: URL) -> AsyncGenerator[AsyncEngine]:
    """An engine whose role sees the rows of the tenant that a setting names."""
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
    """On its own connection, whose settings decide which rows are its own; and it says so."""
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
    """The engine's own role may read the table; the role that the session has taken may not."""
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
            await watcher.reached(lambda now: now.polled == 1)  # by the watcher, that is
            wait.cancel()
        await engine.dispose()


async def test_a_session_that_sets_its_tenant_as_it_begins_loads_the_row_itself(
    tasks: AsyncEngine,
) -> None:
    """What it does in ``after_begin`` may decide what it sees, so nothing is put into it."""
    async with AsyncSession(tasks) as session:
        begun: list[str] = []
        event.listen(session.sync_session, "after_begin", lambda *_: begun.append("begun"))
        task = await wait_for_row_change(session, Task, 1, since={"state": "old"}, timeout=5)
        assert task in session
        assert begun


# -- transactions that are the caller's


async def test_an_idle_transaction_that_the_server_ends_is_named(
    tasks: AsyncEngine, database: URL
) -> None:
    await execute(
        database,
        f"ALTER DATABASE {database.database} SET idle_in_transaction_session_timeout = '1s'",
    )
    engine = create_async_engine(database)
    async with RowWatcher(engine, mode="listen") as watcher, AsyncSession(engine) as session:
        task = await session.get_one(Task, 1)
        wait = await armed_wait(watcher, session, Task, 1)
        async with tasks.connect() as connection:
            ended = text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE state LIKE 'idle in%' AND datname = current_database()"
            )
            while await connection.scalar(ended):
                await connection.rollback()  # the view is cached for a transaction
                await asyncio.sleep(0.02)
        await set_state(tasks, "changed")
        with pytest.raises(SessionStateError, match="idle for longer than 1s"):
            await wait
        await session.rollback()
        assert await session.get_one(Task, 1) is task
        assert task.state == "changed"
    await engine.dispose()


async def test_a_condition_that_fails_leaves_the_bound_transaction_usable(
    engine: AsyncEngine,
) -> None:
    """Its reads are in a SAVEPOINT of their own."""
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        session.add(Order(id=1, n=0))
        await session.commit()
        with pytest.raises(DBAPIError, match="division by zero"):
            await wait_for_row_change(session, Order, 1, until=literal(10) / Order.n > 1, timeout=5)
        assert await session.scalar(select(Order.n)) == 0


async def test_what_is_written_beside_a_failing_read_is_not_undone_with_it(
    engine: AsyncEngine,
) -> None:
    """Others use the connection meanwhile: none of their statements gets into our SAVEPOINT."""
    more: dict[str, Any] = {"join_transaction_mode": "create_savepoint"}
    async with engine.connect() as connection, connection.begin():
        async with AsyncSession(connection, **more) as writer:
            writer.add_all([Order(id=id_, n=1) for id_ in range(1, 101)])
            await writer.commit()
            until = literal(10) / Order.n > 100
            async with AsyncSession(connection, **more) as waiter:
                wait = asyncio.create_task(
                    wait_for_row_change(waiter, Order, 1, until=until, interval=0.001, timeout=20)
                )
                for id_ in range(2, 101):
                    await writer.execute(update(Order).where(Order.id == id_).values(n=2))
                    await writer.commit()
                await writer.execute(update(Order).where(Order.id == 1).values(n=0))
                await writer.commit()
                with pytest.raises(DBAPIError, match="division by zero"):
                    await wait
            done = select(Order.n).where(Order.id > 1)
            assert set(await writer.scalars(done)) == {2}


async def test_a_pending_change_keeps_the_version_that_it_was_made_on(tasks: AsyncEngine) -> None:
    """Else the caller's UPDATE would pass, and overwrite what another has done."""
    async with RowWatcher(tasks, mode="listen") as watcher:
        async with AsyncSession(tasks, expire_on_commit=False) as session:
            task = await session.get_one(Task, 1)
            await session.commit()
            task.tenant = "mine"
            wait = await armed_wait(watcher, session, Task, 1)
            await set_state(tasks, "theirs")
            assert (await wait).state == "theirs"
            assert task.version == 1
            with pytest.raises(StaleDataError):
                await session.commit()


# -- criteria that a listener adds


class Filtered(Session):
    """Hides what was deleted, as SQLAlchemy's recipe for soft deletes does."""


@event.listens_for(Filtered, "do_orm_execute")
def hide_deleted(state: Any) -> None:
    if state.is_select and not state.is_column_load and not state.is_relationship_load:
        criteria = with_loader_criteria(Task, Task.deleted.is_(False), include_aliases=True)
        state.statement = state.statement.options(criteria)


@pytest.mark.parametrize("loaded", [True, False])
async def test_a_row_that_is_softly_deleted_is_returned(tasks: AsyncEngine, loaded: bool) -> None:
    """The row is there: by session and by watcher the wait returns it, deleted as it is."""
    async with (
        RowWatcher(tasks, mode="listen") as watcher,
        AsyncSession(tasks, sync_session_class=Filtered, expire_on_commit=False) as session,
    ):
        if loaded:
            await session.get_one(Task, 1)
            await session.commit()
        waits = [
            asyncio.create_task(
                wait_for_row_change(
                    session, Task, 1, timeout=20, options=[selectinload(Task.steps)]
                )
            ),
            asyncio.create_task(watcher.wait_for_change(Task, 1, timeout=20)),
        ]
        await watcher.reached(lambda now: now.armed == 2)
        await execute(tasks, update(Task).values(deleted=True))
        assert [task.deleted for task in await asyncio.gather(*waits)] == [True, True]
        assert await session.scalar(select(Task)) is None


async def test_criteria_for_all_sessions_hide_nothing_from_a_wait(tasks: AsyncEngine) -> None:
    event.listen(Session, "do_orm_execute", hide_deleted)
    try:
        async with RowWatcher(tasks, mode="listen") as watcher:
            until = lambda task: task.deleted  # noqa: E731
            wait = await armed_wait(watcher, Task, 1, until=until)
            await execute(tasks, update(Task).values(deleted=True))
            assert (await wait).deleted
    finally:
        event.remove(Session, "do_orm_execute", hide_deleted)
