"""A write with any key, of any type, under any session settings wakes the wait for the row."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    URL,
    DateTime,
    Text,
    insert,
    text,
)
from sqlalchemy.dialects.postgresql import BIT, CITEXT
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell import RowWatcher, Timing
from support.keys import TEXT, TYPES, WRITERS, create, without_equals
from support.observed import execute
from support.tables import keyed
from support.waits import armed_waits


@pytest.mark.fault("B20", "B25")
@pytest.mark.parametrize("name", TYPES)
def test_the_key_that_a_trigger_hashes_is_the_one_that_a_read_hashes(
    database: URL, name: str
) -> None:
    """For keys of every type, single and composite, and all session settings of writers."""
    type_, values = TYPES[name]
    model = keyed(type_, Text())
    with asyncio.Runner() as runner:
        runner.run(create(database, model))

        @settings(
            max_examples=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            database=None,
        )
        @given(keys=st.lists(values, min_size=1, max_size=8, unique_by=repr), other=TEXT)
        def check(keys: list[Any], other: str) -> None:
            runner.run(_all_wake(database, model, [(key, other) for key in keys]))

        check()


async def _all_wake(url: URL, model: type[Any], given: list[tuple[Any, ...]]) -> None:
    engine = create_async_engine(url)
    unique = {repr(key): key for key in given}
    if isinstance(model.__table__.c.k0.type, CITEXT):
        unique = {repr(key).lower(): key for key in given}
    rows = [{"k0": key[0], "k1": key[1], "n": 0} for key in unique.values()]
    async with engine.begin() as connection:
        await connection.execute(model.__table__.delete())
        await connection.execute(model.__table__.insert(), without_equals(rows))
    quick = Timing(heartbeat=1000.0, narrow=0.2)  # other tests may hold old transactions
    async with RowWatcher(engine, mode="listen", recheck=None, timing=quick) as watcher:
        for number, setting in enumerate(WRITERS, 1):
            keys = [{"k0": row["k0"], "k1": row["k1"]} for row in without_equals(rows)]
            waits = await armed_waits(watcher, keys, model)
            async with engine.connect() as writer:
                for statement in setting.split(";"):
                    await writer.execute(text(statement))
                await writer.execute(text(f"UPDATE public.keyed SET n = {number}"))
                await writer.commit()
                await writer.invalidate()
            for wait in waits:
                assert (await wait).n == number
    await engine.dispose()


async def test_bit_keys_are_hashed_as_text(database: URL) -> None:
    """Bit strings have no hash function in PostgreSQL."""
    from asyncpg import BitString

    model = keyed(BIT(4), Text())
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(model.__table__.metadata.create_all)
    await engine.dispose()
    await _all_wake(
        database, model, [(BitString.from_int(5, 4), "a"), (BitString.from_int(15, 4), "a")]
    )


class Base(DeclarativeBase):
    pass


class Slot(Base):
    __tablename__ = "slots"
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    n: Mapped[int]


async def test_the_two_hours_of_a_clock_change_are_two_rows(
    engine: AsyncEngine, database: URL
) -> None:
    """Python compares the two times as equal, but in the time zone they differ."""
    zone = ZoneInfo("Europe/Berlin")
    both = [datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=fold) for fold in (0, 1)]
    assert both[0] == both[1]
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["slots"].create)
        await connection.execute(insert(Slot), [{"at": at, "n": i} for i, at in enumerate(both)])
    async with RowWatcher(engine, mode="poll") as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Slot, at, interval=0.02, timeout=20))
            for at in both
        ]
        await watcher.reached(lambda now: now.queries > 1)
        await execute(database, "UPDATE slots SET n = 7 WHERE n = 1")
        assert (await waits[1]).n == 7
        assert not waits[0].done()
        await execute(database, "UPDATE slots SET n = 8 WHERE n = 0")
        assert (await waits[0]).n == 8
