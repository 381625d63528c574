"""An exhausted pool raises a single error that names the pool."""

from typing import Annotated, Any

import pytest
from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from rowbell import PoolExhaustedError, create_db_context, create_db_dependency
from support.requests import SCOPES, OwnSession, app_of, client


@SCOPES
async def test_an_exhausted_pool_fails_before_the_endpoint_runs(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession], scope: Any
) -> None:
    app, ran = app_of(maker, scope), []
    get_db = create_db_dependency(maker)

    @app.get("/ran")
    async def endpoint(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> None:
        ran.append(session)

    async with engine.connect(), engine.connect(), client(app) as http:
        assert (await http.get("/ran")).status_code == 500
    assert not ran


async def test_pool_exhaustion_is_one_error_that_says_what_was_exhausted(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    db = create_db_context(maker)
    async with engine.connect(), engine.connect():
        with pytest.raises(PoolExhaustedError) as caught:
            async with db():
                pass
    error = caught.value
    assert isinstance(error, PoolTimeoutError | SQLAlchemyError)
    assert isinstance(error, TimeoutError)
    assert (error.size, error.overflow, error.waited) == (2, 0, 0.2)
    for part in ("0.2s", "pool_size 2", "all 2 ", "max_overflow 0"):
        assert part in str(error)
    with pytest.raises(PoolExhaustedError):
        async with db() as session:
            await session.commit()
            async with engine.connect(), engine.connect():
                await session.execute(text("SELECT 1"))


async def test_the_error_of_a_session_inside_another_stays_as_it_is(
    maker: async_sessionmaker[OwnSession],
) -> None:
    db = create_db_context(maker)
    with pytest.raises(PoolExhaustedError) as caught:
        async with db(), db(), db():
            pass
    assert isinstance(caught.value.__cause__, PoolTimeoutError)
    assert not isinstance(caught.value.__cause__, PoolExhaustedError)


async def test_the_exhaustion_of_another_pool_is_an_error_with_its_own_numbers(
    maker: async_sessionmaker[OwnSession], database: Any
) -> None:
    elsewhere = create_async_engine(database, pool_size=1, max_overflow=1, pool_timeout=0.01)
    async with elsewhere.connect(), elsewhere.connect():
        with pytest.raises(PoolExhaustedError) as caught:
            async with create_db_context(maker)():
                await (await elsewhere.connect()).close()
    assert (caught.value.size, caught.value.overflow, caught.value.waited) == (1, 1, 0.01)
    await elsewhere.dispose()
