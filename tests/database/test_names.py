"""Schemas, tables and columns of any name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import BigInteger, Integer, Text, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import RowWatcher
from support.observed import execute
from support.waits import HOUR, QUICK, armed_wait, woken

NAMES = ["user", "Order item", 'say "hi"', "x" * 63, "naïve", "percent %s", "a:b", "n", "$rowbell$"]


@pytest.mark.fault("B25")
@pytest.mark.parametrize("name", NAMES)
async def test_a_table_of_any_name_notifies(engine: AsyncEngine, name: str) -> None:
    """The schema, the table, its key and the watched column have that name."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched
    class Named(Base):
        __tablename__ = name
        __table_args__ = {"schema": f"s{name}"[:63]}
        id: Mapped[int] = mapped_column(name, Integer, primary_key=True)
        value: Mapped[str] = mapped_column(f"v{name}"[:63], Text)

    table = Named.__table__
    async with engine.begin() as connection:
        quote = connection.dialect.identifier_preparer.quote
        await connection.exec_driver_sql(f"CREATE SCHEMA {quote(str(table.schema))}")
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Named).values(id=1, value="a"))
    await _changed_by(engine, Named, "value")


async def _changed_by(engine: AsyncEngine, model: type[Any], column: str) -> None:
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, model, 1, columns=[column])
        await execute(engine, model.__table__.update().values({column_of(model, column): "b"}))
        assert getattr(await wait, column) == "b"


def column_of(model: type[Any], name: str) -> Any:
    return getattr(model, name).property.columns[0]


@pytest.mark.fault("B25")
async def test_the_same_table_name_in_two_schemas_notifies_for_its_own_alone(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        for schema in ("one", "two"):
            await connection.execute(text(f"CREATE SCHEMA {schema}"))
        models = {schema: _twin(schema) for schema in ("one", "two")}
        for model in models.values():
            await connection.run_sync(model.metadata.create_all)
            await connection.execute(insert(model).values(id=1, n=0))
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = {
            schema: asyncio.create_task(watcher.wait_for_change(model, 1, interval=HOUR))
            for schema, model in models.items()
        }
        await watcher.reached(lambda now: now.armed == 2)
        rereads = watcher.statistics().rereads
        await execute(engine, "UPDATE two.twins SET n = 1")
        assert (await waits["two"]).n == 1
        assert watcher.statistics().rereads == rereads + 1
        waits["one"].cancel()
        await asyncio.wait(waits.values())


def _twin(schema: str | None) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched
    class Twin(Base):
        __tablename__ = "twins"
        __table_args__ = {"schema": schema}
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        n: Mapped[int]

    return Twin


@pytest.mark.fault("B44")
async def test_a_table_in_a_translated_schema_notifies(engine: AsyncEngine) -> None:
    model = _twin(None)
    translated = engine.execution_options(schema_translate_map={None: "tenant"})
    async with translated.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.run_sync(model.metadata.create_all)
        await connection.execute(insert(model).values(id=1, n=0))
    assert (await woken(translated, model, 1, "UPDATE tenant.twins SET n = 1")).n == 1
