"""``lock_tables``: what is locked, for how long, and what happens if a lock is not acquired."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from rowbell import (
    InvalidArgumentError,
    LockMode,
    LockTimeoutError,
    SessionStateError,
    UnmappedModelError,
    lock_tables,
)
from rowbell._lock_timeout import LockTimeout
from support.models import Base, Dog, Item, Order, Plain
from support.observed import blocked, execute, statements


async def locks_of(session: AsyncSession) -> set[tuple[str, str]]:
    """The table locks that the session's transaction holds, as (table, mode)."""
    rows = await session.execute(
        text(
            "SELECT relation::regclass::text, mode FROM pg_locks WHERE pid = pg_backend_pid() "
            "AND locktype = 'relation' AND granted AND relation >= 16384"
        )
    )
    return {(table, mode) for table, mode in rows}


async def test_a_lock_is_held_until_the_block_ends(
    session: AsyncSession, other: AsyncSession
) -> None:
    async with lock_tables(session, [Order]) as locked:
        assert locked is session
        with pytest.raises(LockTimeoutError) as caught:
            async with lock_tables(other, [Order, Item], timeout="50ms"):
                pass
    error = caught.value
    assert isinstance(error, SQLAlchemyError)
    assert isinstance(error, TimeoutError)
    assert set(error.objects) == {'"orders"', '"items"'}
    assert (error.mode, error.timeout) == ("SHARE UPDATE EXCLUSIVE", "50ms")
    for part in ('"orders"', '"items"', "SHARE UPDATE EXCLUSIVE", "50ms"):
        assert part in str(error)
    async with lock_tables(other, [Order], timeout="50ms"):
        pass
    assert not other.in_transaction()


@pytest.mark.parametrize("mode", list(LockMode))
async def test_each_mode_is_the_one_that_postgresql_shows(
    session: AsyncSession, mode: LockMode
) -> None:
    async with lock_tables(session, [Plain], mode=mode):
        name = "".join(word.capitalize() for word in mode.split()) + "Lock"
        assert await locks_of(session) == {("plain", name)}


NAMES = [
    (None, "MixedCase"),
    (None, "user"),
    (None, "order item"),
    (None, 'quote"d'),
    (None, "a:b%s"),
    (None, "x; DROP TABLE orders --"),
    ("app", "only_app"),
    ("app", "shadow"),
    ("App two", "Select"),
]


@pytest.mark.parametrize(("schema", "name"), NAMES)
async def test_any_name_that_a_table_can_have_is_locked(
    engine: AsyncEngine, session: AsyncSession, schema: str | None, name: str
) -> None:
    """Also if another table of that name comes first in the search_path."""
    table = Table(name, MetaData(), Column("id", Integer, primary_key=True), schema=schema)
    async with engine.begin() as connection:
        if schema:
            await connection.execute(text(f'CREATE SCHEMA "{schema}"'))
            await connection.run_sync(table.to_metadata(MetaData(), schema="public").create)
        await connection.run_sync(table.create)
        oid = (
            "SELECT oid FROM pg_class "
            "WHERE relname = :name AND relnamespace = to_regnamespace(:schema)"
        )
        wanted = await connection.scalar(
            text(oid), {"name": name, "schema": f'"{schema or "public"}"'}
        )
    async with lock_tables(session, [table], mode=LockMode.EXCLUSIVE):
        locked = await session.scalars(
            text(
                "SELECT relation FROM pg_locks WHERE mode = 'ExclusiveLock' AND relation > 16384"
                " AND pid = pg_backend_pid()"  # other tests lock tables of other databases
            )
        )
        assert list(locked) == [wanted]


async def test_the_schema_translate_map_is_followed(engine: AsyncEngine) -> None:
    table = Table("moved", MetaData(), Column("id", Integer, primary_key=True), schema="logical")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.execute(text("CREATE TABLE tenant.moved (id int)"))
    translated = engine.execution_options(schema_translate_map={"logical": "tenant"})
    async with AsyncSession(translated) as session, lock_tables(session, [table]):
        assert await locks_of(session) == {("tenant.moved", "ShareUpdateExclusiveLock")}
    async with AsyncSession(engine) as session:
        await session.connection(execution_options={"schema_translate_map": {"logical": "tenant"}})
        async with lock_tables(session, [table]):
            assert await locks_of(session) == {("tenant.moved", "ShareUpdateExclusiveLock")}


async def test_all_tables_of_an_inheriting_model_are_locked(session: AsyncSession) -> None:
    async with lock_tables(session, [Dog, Dog]):
        assert {table for table, _ in await locks_of(session)} == {"animals", "dogs"}


async def test_locks_in_two_orders_deadlock(engine: AsyncEngine) -> None:
    """Plain LOCK statements deadlock here. ``lock_tables`` prevents this."""
    both_hold_one = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(text(f"LOCK TABLE {first}"))
            await both_hold_one.wait()
            await connection.execute(text(f"LOCK TABLE {second}"))

    outcomes = await asyncio.gather(
        lock("orders", "items"), lock("items", "orders"), return_exceptions=True
    )
    [victim] = [outcome for outcome in outcomes if outcome]
    assert "deadlock detected" in str(victim)


async def test_callers_that_name_tables_in_different_orders_do_not_deadlock(
    engine: AsyncEngine,
) -> None:
    """Both lock the same table first, although one uses another name for a table."""
    items = Table("items", MetaData(), schema="public")
    done: list[str] = []

    async def lock(name: str, tables: Sequence[Any]) -> None:
        async with AsyncSession(engine) as session:
            async with lock_tables(session, tables, mode=LockMode.EXCLUSIVE, timeout="30s"):
                done.append(name)

    async with AsyncSession(engine) as holder, lock_tables(holder, [Item]):
        tasks = [
            asyncio.create_task(lock("one", [Order, items])),
            asyncio.create_task(lock("two", [Item, Order])),
        ]
        assert await blocked(engine, 2) == ["items", "items"]
        held = await holder.scalar(
            text(
                "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        assert held == 0
    await asyncio.gather(*tasks)
    assert sorted(done) == ["one", "two"]


async def test_a_frozen_snapshot_is_taken_after_the_lock(
    engine: AsyncEngine, other: AsyncSession
) -> None:
    """In REPEATABLE READ the block sees what the previous holder has committed."""
    await execute(engine, insert(Plain).values(id=1))

    async def read() -> Any:
        frozen = engine.execution_options(isolation_level="REPEATABLE READ")
        async with AsyncSession(frozen) as session:
            async with lock_tables(session, [Plain, Order], timeout="30s"):
                return await session.scalar(select(Plain.n))

    async with lock_tables(other, [Plain]):
        task = asyncio.create_task(read())
        await blocked(engine, 1)
        await other.execute(update(Plain).values(n=5))
    assert await task == 5


async def test_in_a_transaction_a_failure_undoes_nothing_of_it(
    session: AsyncSession, other: AsyncSession
) -> None:
    async with lock_tables(other, [Item]):
        await session.execute(insert(Plain).values(id=1))
        with pytest.raises(LockTimeoutError):
            async with lock_tables(session, [Item], timeout=0.05):
                pass
        await session.commit()
    assert await session.get(Plain, 1) is not None


async def test_in_a_transaction_the_lock_lasts_until_that_ends(
    session: AsyncSession, other: AsyncSession
) -> None:
    await session.execute(select(Plain))
    async with lock_tables(session, [Order]):
        pass
    assert session.in_transaction()
    with pytest.raises(LockTimeoutError):
        async with lock_tables(other, [Order], timeout="20ms"):
            pass
    await session.commit()
    async with lock_tables(other, [Order], timeout="20ms"):
        pass


async def test_the_block_commits_and_an_exception_rolls_it_back(session: AsyncSession) -> None:
    async with lock_tables(session, [Plain]):
        session.add(Plain(id=1))
    with pytest.raises(LookupError):
        async with lock_tables(session, [Plain]):
            session.add(Plain(id=2))
            await session.flush()
            raise LookupError
    assert list(await session.scalars(select(Plain.id))) == [1]


async def test_the_callers_lock_timeout_is_back_after_the_lock_and_after_a_failure(
    session: AsyncSession, other: AsyncSession
) -> None:
    async def current() -> Any:
        return await session.scalar(text("SHOW lock_timeout"))

    await session.execute(text("SET LOCAL lock_timeout = '7s'"))
    async with lock_tables(session, [Plain], timeout="100ms"):
        assert await current() == "7s"
    assert await current() == "7s"
    async with lock_tables(other, [Item]):
        with pytest.raises(LockTimeoutError):
            async with lock_tables(session, [Item], timeout="10ms"):
                pass
    assert await current() == "7s"
    await session.rollback()
    async with lock_tables(session, [Plain], timeout="100ms"):
        assert await current() == "0"
    assert await current() == "0"


async def test_none_leaves_the_callers_own_lock_timeout_in_force(
    session: AsyncSession, other: AsyncSession
) -> None:
    async with lock_tables(other, [Item]):
        await session.execute(text("SET LOCAL lock_timeout = '20ms'"))
        with pytest.raises(LockTimeoutError, match="without a longer wait"):
            async with lock_tables(session, [Item], timeout=None):
                pass


@pytest.mark.parametrize(
    ("tables", "options", "error", "words"),
    [
        ([], {}, ValueError, "tables must be one mapped class or table at least"),
        (Order, {}, InvalidArgumentError, "a list of mapped classes"),
        (["orders"], {}, UnmappedModelError, "orders"),
        ("orders", {}, UnmappedModelError, "is not a class mapped"),
        ([object], {}, UnmappedModelError, "object is not a class mapped"),
        (
            [Order],
            {"mode": "SHARE; DROP TABLE orders"},
            InvalidArgumentError,
            "one of ACCESS SHARE",
        ),
        ([Order], {"mode": None}, InvalidArgumentError, "mode must be"),
        ([Order], {"timeout": "5s'; DROP TABLE orders; --"}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": "5 parsecs"}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": "٥s"}, InvalidArgumentError, "timeout must"),  # noqa: RUF001
        ([Order], {"timeout": ""}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": 0}, InvalidArgumentError, "above 0"),
        ([Order], {"timeout": "0"}, InvalidArgumentError, "above 0"),
        ([Order], {"timeout": -1}, InvalidArgumentError, "above 0"),
        ([Order], {"timeout": timedelta()}, InvalidArgumentError, "above 0"),
        ([Order], {"timeout": float("nan")}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": float("inf")}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": 10**400}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": True}, InvalidArgumentError, "timeout must"),
        ([Order], {"timeout": timedelta(days=25)}, InvalidArgumentError, "timeout must"),
    ],
)
async def test_bad_input_is_refused_at_the_call_and_nothing_is_sent(
    engine: AsyncEngine,
    session: AsyncSession,
    tables: Any,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with statements(engine) as sent, pytest.raises(error, match=words):
        lock_tables(session, tables, **options)
    assert not sent
    assert not session.in_transaction()


async def test_tables_of_two_databases_are_refused(engine: AsyncEngine) -> None:
    elsewhere = create_async_engine(engine.url)
    async with AsyncSession(binds={Order: engine, Item: elsewhere}) as session:
        with pytest.raises(InvalidArgumentError, match="tables of one database"):
            lock_tables(session, [Order, Item])
        async with lock_tables(session, [Item]):
            assert {table for table, _ in await locks_of_bound(session)} == {"items"}
    async with AsyncSession(binds={Base: engine}) as session:
        async with lock_tables(session, [Item]):
            pass
    await elsewhere.dispose()


async def locks_of_bound(session: AsyncSession) -> set[tuple[str, str]]:
    async with AsyncSession(await session.connection(bind_arguments={"mapper": Item})) as inner:
        return await locks_of(inner)


async def test_autocommit_is_refused(engine: AsyncEngine) -> None:
    async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with pytest.raises(SessionStateError, match="AUTOCOMMIT"):
            async with lock_tables(session, [Order]):
                pass


async def test_a_cancelled_wait_leaves_no_connection_and_no_lock(
    engine: AsyncEngine, other: AsyncSession
) -> None:
    async def wait() -> None:
        async with AsyncSession(engine) as session, lock_tables(session, [Order], timeout="30s"):
            pass

    async with lock_tables(other, [Order]):
        task = asyncio.create_task(wait())
        await blocked(engine, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await blocked(engine, 0)
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0


@pytest.mark.parametrize(
    ("given", "read"),
    [("5s", "5s"), (0.25, "250ms"), (timedelta(minutes=1), "1min"), (0.0001, "1ms"), (2, "2s")],
)
async def test_each_form_of_timeout_reaches_the_server(
    session: AsyncSession, given: Any, read: str
) -> None:
    seen = await session.scalar(
        text("SELECT set_config('lock_timeout', :it, true)"), {"it": str(LockTimeout.of(given))}
    )
    assert seen == read


async def test_an_absent_table_is_the_servers_own_error(session: AsyncSession) -> None:
    with pytest.raises(DBAPIError, match="does not exist"):
        async with lock_tables(session, [Table("absent", MetaData())]):
            pass
