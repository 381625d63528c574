"""Partitioned tables."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from support.waits import woken


async def partitioned(engine: AsyncEngine) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __tablename__ = "events"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    rowbell.watched(Event)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for name, low, high in (("low", 0, 100), ("high", 100, 200)):
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF events FOR VALUES FROM ({low}) TO ({high})")
            )
        await connection.execute(insert(Event).values(id=1, n=0))
    return Event


@pytest.mark.fault("B24")
@pytest.mark.parametrize("table", ["events", "low"])
async def test_a_partitioned_table_notifies_however_it_is_written(
    engine: AsyncEngine, table: str
) -> None:
    """Partitions created after the triggers notify as well."""
    event = await partitioned(engine)
    assert (await woken(engine, event, 1, f"UPDATE {table} SET n = 1")).n == 1


@pytest.mark.fault("B24")
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM low", "TRUNCATE events", "UPDATE events SET id = 150"],
    ids=["delete", "truncate", "move"],
)
async def test_a_row_that_leaves_a_partitioned_table_is_reported_as_deleted(
    engine: AsyncEngine, statement: str
) -> None:
    with pytest.raises(rowbell.NotFoundError, match="was deleted"):
        await woken(engine, await partitioned(engine), 1, statement)
