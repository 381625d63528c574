"""An app with sessions in its endpoints, and the connections in use after a request."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from rowbell import create_db_dependency
from support.models import Plain


class OwnSession(AsyncSession):
    """A subclass, which is common in applications."""


def in_use(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(Plain)) or 0)


def client(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def app_of(maker: async_sessionmaker[OwnSession], scope: Any) -> FastAPI:
    """An app with the dependency in one of FastAPI's scopes."""
    app = FastAPI()
    get_db = create_db_dependency(maker)

    @app.post("/plain/{key}")
    async def create(key: int, session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> str:
        session.add(Plain(id=key))
        return type(session).__name__

    @app.post("/failing/{key}")
    async def failing(
        key: int, session: Annotated[OwnSession, Depends(get_db, scope=scope)]
    ) -> None:
        session.add(Plain(id=key))
        await session.flush()
        raise HTTPException(418)

    @app.post("/deferred")
    async def deferred(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> str:
        await session.execute(text("INSERT INTO checked VALUES (1, 77)"))
        return "created"

    @app.post("/nothing")
    async def nothing() -> None:
        pass

    @app.get("/connected")
    async def connected(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> bool:
        return session.in_transaction() and in_use_by(session) == 1

    return app


def in_use_by(session: AsyncSession) -> int:
    pool = session.get_bind().engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


SCOPES = pytest.mark.parametrize("scope", ["function", None])
