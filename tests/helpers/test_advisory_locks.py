"""``advisory_lock`` holds the lock as documented, whatever happens to the session in its block."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from rowbell import (
    InvalidArgumentError,
    LockTimeoutError,
    SessionStateError,
    advisory_lock,
    get_transaction,
)
from support.models import Plain
from support.observed import blocked, kill_connection_of, statements


async def held(engine: AsyncEngine) -> int:
    """The number of advisory locks that are held in this database."""
    async with engine.connect() as connection:
        count = await connection.scalar(
            text(
                "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
                "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
        )
    return int(count or 0)


KEYS = [0, -(2**63), 2**63 - 1, (0, 0), (-(2**31), 2**31 - 1), "nightly", "", "ünïcode 🔔"]


@pytest.mark.parametrize("key", KEYS)
async def test_one_session_holds_the_key_and_no_other(
    engine: AsyncEngine, session: AsyncSession, other: AsyncSession, key: Any
) -> None:
    async with advisory_lock(session, key) as acquired:
        assert acquired is True
        async with advisory_lock(other, key, nowait=True) as second:
            assert second is False
        with pytest.raises(LockTimeoutError) as caught:
            async with advisory_lock(other, key, timeout="20ms"):
                pass
        assert repr(key) in str(caught.value)
        async with advisory_lock(other, "another", nowait=True) as free:
            assert free is True
    async with advisory_lock(other, key, nowait=True) as free:
        assert free is True
    assert await held(engine) == 0


async def test_the_three_kinds_of_key_are_those_of_sql(
    session: AsyncSession, other: AsyncSession
) -> None:
    """So a program in another language can use the same locks."""
    calls = {7: "7", (7, 8): "7, 8", "nightly": "hashtextextended('nightly', 0)"}
    for key, arguments in calls.items():
        async with advisory_lock(session, key):  # type: ignore[arg-type]
            taken = await other.scalar(text(f"SELECT pg_try_advisory_lock({arguments})"))
            assert taken is False


async def test_shared_locks_stand_beside_each_other_and_exclude_others(
    engine: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    async with advisory_lock(session, 1, shared=True), advisory_lock(other, 1, shared=True):
        async with (
            AsyncSession(engine) as third,
            advisory_lock(third, 1, nowait=True) as acquired,
        ):
            assert acquired is False
    assert await held(engine) == 0


async def test_a_second_waits_until_the_first_has_ended(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    order: list[str] = []
    waits = asyncio.Event()

    async def second() -> None:
        async with AsyncSession(engine) as mine:
            await mine.connection()
            waits.set()
            async with advisory_lock(mine, "k", timeout=30):
                order.append("second")

    async with advisory_lock(session, "k"):
        task = asyncio.create_task(second())
        await waits.wait()
        await blocked(engine)
        order.append("first")
    await task
    assert order == ["first", "second"]


async def test_with_transaction_it_is_held_until_the_commit(
    engine: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    async with advisory_lock(session, 1, transaction=True):
        session.add(Plain(id=1))
    async with advisory_lock(other, 1, nowait=True, transaction=True) as acquired:
        assert acquired is False
    await session.commit()
    async with advisory_lock(other, 1, nowait=True, transaction=True) as acquired:
        assert acquired is True
        assert await other.get(Plain, 1) is not None


async def test_nothing_that_is_pending_is_flushed(session: AsyncSession) -> None:
    session.add(Plain(id=1))
    async with advisory_lock(session, 1, timeout=5):
        assert session.new
    async with advisory_lock(session, 2, transaction=True):
        assert session.new


async def test_the_lock_nests(engine: AsyncEngine, session: AsyncSession) -> None:
    async with advisory_lock(session, 1):
        async with advisory_lock(session, 1):
            pass
        assert await held(engine) == 1
    assert await held(engine) == 0


async def test_after_a_failed_wait_the_transaction_goes_on(
    session: AsyncSession, other: AsyncSession
) -> None:
    await session.execute(insert(Plain).values(id=1))
    await session.execute(text("SET LOCAL lock_timeout = '7s'"))
    async with advisory_lock(other, 1):
        for transaction in (False, True):
            with pytest.raises(LockTimeoutError):
                async with advisory_lock(session, 1, timeout="10ms", transaction=transaction):
                    pass
    assert await session.scalar(text("SHOW lock_timeout")) == "7s"
    await session.commit()
    assert await session.get(Plain, 1) is not None


async def test_a_commit_inside_the_block_is_refused_before_it_is_made(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    """It would return the connection to the pool while the connection holds the lock."""
    with pytest.raises(SessionStateError, match=r"bind the session to a connection"):
        async with advisory_lock(session, "job"):
            session.add(Plain(id=1))
            await session.commit()
    await session.rollback()
    assert await session.get(Plain, 1) is None
    await session.rollback()
    assert await held(engine) == 0
    async with get_transaction(session), advisory_lock(session, "job"), get_transaction(session):
        session.add(Plain(id=2))
    assert await session.get(Plain, 2) is not None


async def test_on_a_connection_the_lock_stands_across_commits(engine: AsyncEngine) -> None:
    async with engine.connect() as connection, AsyncSession(connection) as session:
        async with advisory_lock(session, "job", nowait=True) as acquired:
            assert acquired
            for key in (1, 2):
                session.add(Plain(id=key))
                await session.commit()
                assert await held(engine) == 1
        assert not connection.in_transaction()
        assert await held(engine) == 0
    async with AsyncSession(engine) as session:
        assert len(list(await session.scalars(select(Plain)))) == 2


@pytest.mark.parametrize("ending", ["rollback", "close"])
async def test_a_transaction_that_ends_inside_takes_the_lock_with_it_and_says_so(
    engine: AsyncEngine, session: AsyncSession, ending: str
) -> None:
    with pytest.raises(SessionStateError, match="was lost inside its block"):
        async with advisory_lock(session, "job"):
            await getattr(session, ending)()
            assert await held(engine) == 0
    assert await held(engine) == 0


async def test_an_exception_is_itself_and_leaves_no_lock(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    with pytest.raises(LookupError):
        async with advisory_lock(session, "job"):
            raise LookupError
    assert await held(engine) == 0
    with pytest.raises(LookupError):
        async with advisory_lock(session, "job"):
            await session.rollback()
            raise LookupError
    assert await held(engine) == 0


async def test_a_failed_statement_leaves_no_lock_once_it_is_rolled_back(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    """A failed transaction cannot unlock. The pool unlocks when it gets the connection back."""
    with pytest.raises(DBAPIError, match="division by zero"):
        async with advisory_lock(session, "job"):
            await session.execute(text("SELECT 1/0"))
    await session.rollback()
    assert await held(engine) == 0
    async with advisory_lock(session, "job", nowait=True) as acquired:
        assert acquired


async def test_on_a_connection_a_failed_statement_leaves_no_lock_either(
    engine: AsyncEngine,
) -> None:
    """The rollback releases it, because the connection does not return to the pool."""
    async with engine.connect() as connection, AsyncSession(connection) as session:
        for _ in range(3):
            with pytest.raises(DBAPIError, match="division by zero"):
                async with advisory_lock(session, "job"):
                    await session.execute(text("SELECT 1/0"))
            await session.rollback()
            assert await held(engine) == 0
        async with advisory_lock(session, "job"):
            await session.commit()
            assert await held(engine) == 1
        assert await held(engine) == 0


async def test_a_failed_statement_that_a_savepoint_undoes_leaves_no_lock(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    """The outer transaction goes on, and keeps its earlier changes."""
    await session.execute(insert(Plain).values(id=1))
    with pytest.raises(DBAPIError, match="division by zero"):
        async with get_transaction(session), advisory_lock(session, "job"):
            await session.execute(text("SELECT 1/0"))
    assert await held(engine) == 0
    await session.commit()
    assert await session.get(Plain, 1) is not None


async def test_the_pool_keeps_its_connections_and_they_hold_nothing(
    engine: AsyncEngine, database: Any
) -> None:
    small = create_async_engine(database, pool_size=1, max_overflow=0)
    pids: set[Any] = set()
    for _ in range(5):
        async with AsyncSession(small) as session:
            pids.add(await session.scalar(text("SELECT pg_backend_pid()")))
            with pytest.raises(SessionStateError):
                async with advisory_lock(session, "job"):
                    await session.rollback()
            assert await held(engine) == 0
            async with advisory_lock(session, "job", timeout=1):
                assert await held(engine) == 1
        assert await held(engine) == 0
    assert len(pids) == 1
    await small.dispose()


async def test_a_lost_connection_is_a_lost_lock_and_says_so(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    with pytest.raises(SessionStateError, match="was lost"):
        async with advisory_lock(session, "job"):
            await kill_connection_of(session, engine)
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1"))
    await session.rollback()
    assert await held(engine) == 0


async def test_cancelled_at_any_moment_it_leaves_nothing(
    engine: AsyncEngine, other: AsyncSession
) -> None:
    """A timeout of anyio cancels every await; a timeout of asyncio cancels once."""

    async def use(number: int) -> None:
        async with AsyncSession(engine) as session:
            async with advisory_lock(session, "job", timeout="5s", transaction=number % 3 == 0):
                await session.execute(text("SELECT pg_sleep(0.002)"))

    for number in range(60):
        if number % 2:
            with anyio.move_on_after(number / 5_000):
                await use(number)
        else:
            try:
                async with asyncio.timeout(number / 5_000):
                    await use(number)
            except TimeoutError:
                pass
    async with advisory_lock(other, "job", timeout="5s"):
        assert await held(engine) == 1
    assert await held(engine) == 0


async def test_a_cancelled_wait_is_no_longer_in_the_queue(
    engine: AsyncEngine, session: AsyncSession, other: AsyncSession
) -> None:
    async with advisory_lock(session, "job"):
        with anyio.move_on_after(0.1):
            async with AsyncSession(engine) as third, advisory_lock(third, "job"):
                pass
    async with advisory_lock(other, "job", timeout="5s"):
        assert await held(engine) == 1


@pytest.mark.parametrize(
    "key",
    [2**63, -(2**63) - 1, (1,), (1, 2, 3), (), (2**31, 0), (0, "1"), 1.0, True, None, "a\0b", b"x"],
)
async def test_an_invalid_key_is_refused_at_the_call(session: AsyncSession, key: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="key must be a 64-bit integer"):
        advisory_lock(session, key)
    assert not session.in_transaction()


@pytest.mark.parametrize(
    "options", [{"timeout": "'; DROP TABLE plain; --"}, {"timeout": 1, "nowait": True}]
)
async def test_bad_options_are_refused_at_the_call(
    engine: AsyncEngine, session: AsyncSession, options: Any
) -> None:
    with statements(engine) as sent, pytest.raises(InvalidArgumentError, match="timeout must be"):
        advisory_lock(session, 1, **options)
    assert not sent


async def test_autocommit_is_refused(engine: AsyncEngine) -> None:
    """In autocommit the transaction would end before the block begins."""
    async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with pytest.raises(SessionStateError, match="AUTOCOMMIT"):
            async with advisory_lock(session, 1, transaction=True):
                pass
    assert await held(engine) == 0
