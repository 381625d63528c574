"""Sessions and transactions as ``async with`` blocks, for workers."""

import asyncio

import anyio
import pytest
from sqlalchemy import URL, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from rowbell import RowWatcher, UnsupportedEngineError, create_db_context, get_transaction
from support.models import Plain
from support.requests import OwnSession, count, in_use


async def test_cancelled_at_any_moment_a_session_gives_its_connection_back(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """The cleanup is complete when the canceled task ends. Nothing runs in the background."""
    db = create_db_context(maker)
    for number in range(60):
        with anyio.move_on_after(number / 3_000):
            async with db() as session:
                session.add(Plain(id=1))
                await session.flush()
                await session.execute(text("SELECT pg_sleep(0.002)"))
                await anyio.sleep_forever()
        assert in_use(engine) == 0
    assert await count(engine) == 0


async def test_cancelled_again_while_it_ends_a_session_leaves_its_connection_whole(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """``Task.cancel()`` ignores anyio's shields. The next user gets a connection that works."""
    db = create_db_context(maker)

    async def work() -> None:
        async with db() as session:
            session.add(Plain(id=1))
            await session.flush()
            inside.set()
            await anyio.sleep_forever()

    for steps in range(15):
        inside = asyncio.Event()
        task = asyncio.create_task(work())
        await inside.wait()
        for _ in range(steps):
            task.cancel()
            await asyncio.sleep(0)  # a different step of the cleanup in each round
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_use(engine) == 0
        assert await count(engine) == 0


async def test_a_session_that_is_bound_per_model_gets_its_connections_as_it_needs_them(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(binds={Plain: engine})
    async with create_db_context(maker)() as session:
        session.add(Plain(id=1))
    assert await count(engine) == 1


async def test_the_endpoint_may_commit_and_roll_back_itself(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with create_db_context(maker)() as session:
        session.add(Plain(id=1))
        await session.commit()
        session.add(Plain(id=2))
        await session.flush()
        await session.rollback()
    assert await count(engine) == 1


async def test_outside_a_transaction_the_block_is_one(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with maker() as session:
        async with get_transaction(session) as same:
            assert same is session
            session.add(Plain(id=1))
        assert not session.in_transaction()
        with pytest.raises(LookupError):
            async with get_transaction(session):
                session.add(Plain(id=2))
                await session.flush()
                raise LookupError
        assert not session.in_transaction()
    assert await count(engine) == 1


async def test_inside_a_transaction_only_the_block_is_undone(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with maker() as session:
        session.add(Plain(id=1))
        await session.flush()
        with pytest.raises(DBAPIError):
            async with get_transaction(session):
                await session.execute(text("INSERT INTO plain VALUES (1, 0)"))
        async with get_transaction(session), get_transaction(session):
            session.add(Plain(id=3))
        assert session.in_transaction()
        await session.commit()
    assert await count(engine) == 2


async def test_a_cancelled_block_is_undone_and_the_transaction_around_it_goes_on(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """A scope of anyio cancels every await in it again, also the rollback."""
    async with maker() as session:
        session.add(Plain(id=1))
        await session.flush()
        with anyio.move_on_after(0.05):
            async with get_transaction(session):
                session.add(Plain(id=2))
                await session.flush()
                await anyio.sleep_forever()
        session.add(Plain(id=3))
        await session.commit()
    async with engine.connect() as connection:
        assert set(await connection.scalars(select(Plain.id))) == {1, 3}


async def test_a_session_maker_may_say_that_its_sessions_can_be_used_again(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(engine, close_resets_only=True)
    async with create_db_context(maker)() as session:
        pass
    assert await session.scalar(text("SELECT 1")) == 1
    await session.close()


async def test_a_session_that_begins_nothing_by_itself_is_left_to_its_user(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(engine, autobegin=False)
    async with create_db_context(maker)() as session:
        assert not session.in_transaction()
        async with session.begin():
            session.add(Plain(id=1))
    assert await count(engine) == 1


async def test_an_argument_of_libpq_is_named_with_asyncpgs(database: URL) -> None:
    engine = create_async_engine(database.update_query_dict({"sslmode": "require"}))
    with pytest.raises(UnsupportedEngineError, match=r"\?ssl=require"):
        async with create_db_context(async_sessionmaker(engine))():
            pass
    with pytest.raises(UnsupportedEngineError, match=r"\?ssl=require"):
        RowWatcher(engine)
    await engine.dispose()
