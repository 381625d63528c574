"""A table with a list that is kept fresh by ``changes()``."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import Resync, ResyncReason, RowWatcher
from support.waits import QUICK

BRIEF: Final = 0.05
"""The interval of these tests, in seconds."""

FORMS = pytest.mark.parametrize("form", ["statement", "row", "partitioned"])


def listed(form: str = "statement", *, inserts: bool = True) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Entry(Base):
        __tablename__ = "entries"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"} if form == "partitioned" else {}
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int] = mapped_column(default=0)

    options: dict[str, Any] = {} if form == "partitioned" else {"for_each": form}
    return rowbell.watched(inserts=inserts, **options)(Entry)


async def created(engine: AsyncEngine, model: type[Any]) -> type[Any]:
    async with engine.begin() as connection:
        await connection.run_sync(model.metadata.create_all)
        if model.__table_args__:
            await connection.execute(
                text("CREATE TABLE part PARTITION OF entries FOR VALUES FROM (0) TO (100000)")
            )
        await connection.execute(text("INSERT INTO entries (id, n) VALUES (1, 0), (2, 0)"))
    return model


def watching(engine: AsyncEngine, mode: str = "listen") -> RowWatcher:
    return RowWatcher(engine, mode=mode, recheck=None, timing=QUICK)


async def next_one(changes: Any) -> ResyncReason:
    resync: Resync = await anext(changes)
    return resync.reason


async def relied_on(changes: Any) -> Any:
    """Iterate until nothing more comes without a change."""
    while not changes._is_relied_on:
        await anext(changes)
    return changes


async def none_comes(changes: Any, seconds: float = 4 * BRIEF) -> bool:
    """Whether nothing comes for several intervals; the iteration is then cancelled."""
    try:
        async with asyncio.timeout(seconds):
            await anext(changes)
    except TimeoutError:
        return True
    return False


async def rest(changes: Any) -> list[Any]:
    return [each async for each in changes]
