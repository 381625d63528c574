"""The transaction of the caller's session is used or refused, and never changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm.exc import StaleDataError

from rowbell import RowWatcher, SessionStateError, wait_for_row_change
from rowbell._cancellation import CLEANUP_SECONDS
from rowbell.testing import rolled_back_session
from support.models import Order
from support.observed import blocked, execute
from support.tasks import Task, set_state
from support.waits import armed_wait


async def test_a_session_on_a_connection_in_autocommit_waits(engine: AsyncEngine) -> None:
    """SAVEPOINT is not possible in autocommit, and not needed."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(connection) as session:
            session.add(Order(id=1))
            await session.commit()
            await session.get_one(Order, 1)
            order = await wait_for_row_change(session, Order, 1, since={"n": 7}, timeout=5)
            assert order.n == 0


async def test_a_statement_of_anothers_that_fails_ends_no_wait(engine: AsyncEngine) -> None:
    """The sender of that statement rolls it back, and the wait reads again."""
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
    """The cancellation may come at any moment of its reads."""
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        session.add(Order(id=1))
        await session.commit()
        for moment in range(100):
            wait = asyncio.create_task(wait_for_row_change(session, Order, 1, interval=0.001))
            for _ in range(moment % 25):
                await asyncio.sleep(0)  # a different moment in each round
            if moment >= 50:
                await asyncio.sleep(0.0005)  # the same, between two reads
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            assert await session.scalar(select(Order.id)) == 1


async def test_a_read_on_the_callers_connection_may_wait_for_long(engine: AsyncEngine) -> None:
    """A lock on the table delays it. Nothing is canceled, so the cleanup limit does not apply."""
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
        await asyncio.sleep(CLEANUP_SECONDS + 0.2)  # longer than the limit of a cleanup
        await holder.rollback()
        assert (await wait).n == 0


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
    """It is refused at the call, not after the wait."""
    async with AsyncSession(tasks, autobegin=False) as session:
        with pytest.raises(SessionStateError, match=r"autobegin=False .* session.begin\(\)"):
            await wait_for_row_change(session, Task, 1)
        async with session.begin():
            wait = asyncio.create_task(
                wait_for_row_change(session, Task, 1, interval=0.02, since={"state": "old"})
            )
            assert (await wait).state == "public"


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
    """The wait's reads run in a SAVEPOINT."""
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        session.add(Order(id=1, n=0))
        await session.commit()
        with pytest.raises(DBAPIError, match="division by zero"):
            await wait_for_row_change(session, Order, 1, until=literal(10) / Order.n > 1, timeout=5)
        assert await session.scalar(select(Order.n)) == 0


async def test_what_is_written_beside_a_failing_read_is_not_undone_with_it(
    engine: AsyncEngine,
) -> None:
    """Another task uses the connection. None of its statements runs inside our SAVEPOINT."""
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
    """Otherwise the caller's UPDATE would succeed, and overwrite another transaction's change."""
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
