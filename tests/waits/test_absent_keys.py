"""A row that does not exist wakes the wait for it when it is inserted, whatever its key is."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    URL,
    BigInteger,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    Numeric,
    SmallInteger,
    String,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import CITEXT, INET
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeEngine

from rowbell import Reason, RowWatcher, Timing, install_triggers
from support.keys import TEXT, TYPES, WRITERS, create, without_equals
from support.observed import execute
from support.tables import keyed
from support.waits import armed_waits, run

ALONE = Timing(heartbeat=1000.0, narrow=0.2)  # other tests may hold old transactions


@pytest.mark.parametrize("name", TYPES)
def test_the_key_that_an_insert_hashes_is_the_one_that_the_wait_has_registered(
    database: URL, name: str
) -> None:
    """For keys of every type, single and composite, and all session settings of writers."""
    type_, values = TYPES[name]
    model = keyed(type_, Text(), inserts=True)
    with asyncio.Runner() as runner:
        runner.run(create(database, model))

        @settings(
            max_examples=8,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            database=None,
        )
        @given(keys=st.lists(values, min_size=1, max_size=6, unique_by=repr), other=TEXT)
        def check(keys: list[Any], other: str) -> None:
            runner.run(_all_wake(database, model, [(key, other) for key in keys]))

        check()


async def _all_wake(url: URL, model: type[Any], given: list[tuple[Any, ...]]) -> None:
    engine = create_async_engine(url)
    unique = {repr(key): key for key in given}
    if isinstance(model.__table__.c.k0.type, CITEXT):
        unique = {repr(key).lower(): key for key in given}
    rows = without_equals([{"k0": key[0], "k1": key[1], "n": 0} for key in unique.values()])
    async with RowWatcher(engine, mode="listen", recheck=None, timing=ALONE) as watcher:
        for setting in WRITERS:
            async with engine.begin() as connection:
                await connection.execute(model.__table__.delete())
            keys = [{"k0": row["k0"], "k1": row["k1"]} for row in rows]
            waits = await armed_waits(watcher, keys, model, missing="wait")
            async with engine.connect() as writer:
                for statement in setting.split(";"):
                    await writer.exec_driver_sql(statement)
                await writer.exec_driver_sql("SET search_path = public")  # for the INSERT itself
                await writer.execute(model.__table__.insert(), rows)
                await writer.commit()
                await writer.invalidate()
            async with asyncio.timeout(20):
                await asyncio.gather(*waits)
    await engine.dispose()


NEW_YEAR = datetime(2020, 1, 1, tzinfo=UTC)
NAMED: dict[str, tuple[str, TypeEngine[Any], Any]] = {
    "int as bigint": ("integer", BigInteger(), 7),
    "bigint as int": ("bigint", Integer(), -7),
    "smallint as numeric": ("smallint", Numeric(), Decimal("7.0")),
    "int as numeric": ("integer", Numeric(), Decimal(7)),
    "numeric as int": ("numeric(20, 5)", Integer(), 7),
    "numeric as bigint": ("numeric", BigInteger(), 2**40),
    "numeric as smallint": ("numeric", SmallInteger(), 7),
    "int as float": ("integer", Float(), 7.0),
    "float as numeric": ("double precision", Numeric(), Decimal("0.5")),
    "numeric as float": ("numeric", Double(), 0.5),
    "bigint as float": ("bigint", Double(), 2.0**53),
    "collation of the model": ("text", String(collation="C"), "aB"),
    "real as double": ("real", Double(), 0.5),
    "char as text": ("char(5)", Text(), "ab"),
    "text as varchar": ("text", String(50), "aB"),
    "citext as text": ("citext", Text(), "aB"),
    "citext": ("citext", CITEXT(), "aB"),
    "name as text": ("name", Text(), "ab"),
    "another collation": ('text COLLATE "C"', Text(), "aB"),
    "domain": ("price", Numeric(), Decimal("7.5")),
    "domain as int": ("price", Integer(), 7),
    "domain of a domain": ("cheap", Numeric(), Decimal("0.5")),
    "domain of char": ("short", Text(), "ab"),
    "timestamp as timestamptz": (
        "timestamp",
        DateTime(timezone=True),
        datetime(2020, 1, 1, tzinfo=UTC),
    ),
    "timestamptz as timestamp": ("timestamptz", DateTime(), datetime(2020, 7, 1)),  # noqa: DTZ001
    "date as timestamp": ("date", DateTime(), datetime(2020, 1, 1)),  # noqa: DTZ001
    "timestamp as date": ("timestamp", Date(), date(2020, 1, 1)),
    "cidr as inet": ("cidr", INET(), "10.0.0.0/8"),
    "inet": ("inet", INET(), "10.0.0.1"),
    "uuid": ("uuid", Uuid(as_uuid=False), "d2f7e9a0-0000-4000-8000-00000000000a"),
}


@pytest.mark.parametrize("name", NAMED)
async def test_a_key_whose_type_the_model_calls_otherwise_is_not_armed_and_deaf(
    engine: AsyncEngine, name: str
) -> None:
    """It is hashed in the type of the column, or polled with the reason."""
    in_database, type_, key = NAMED[name]
    model = keyed(type_, inserts=True)
    await execute(
        engine,
        "CREATE EXTENSION IF NOT EXISTS citext",
        "CREATE DOMAIN price AS numeric(20, 5)",
        "CREATE DOMAIN cheap AS price CHECK (VALUE < 10)",
        "CREATE DOMAIN short AS char(3)",
        f"CREATE TABLE keyed (k0 {in_database} PRIMARY KEY, n integer)",
    )
    await run(engine, install_triggers, model)
    async with RowWatcher(engine, recheck=None, timing=ALONE) as watcher:
        wait = asyncio.create_task(
            watcher.wait_for_change(model, key, missing="wait", interval=0.05)
        )
        try:
            await watcher.reached(
                lambda now: now.armed == 1 or now.reason is Reason.OTHER_KEY_TYPE or wait.done()
            )
            async with engine.begin() as connection:
                await connection.execute(model.__table__.insert(), {"k0": key, "n": 1})
            assert (await wait).n == 1
        finally:
            wait.cancel()


@pytest.mark.parametrize(
    ("type_", "key"), [(BigInteger(), 2**40), (Numeric(), Decimal("2147483647.6"))]
)
async def test_a_key_that_the_column_cannot_hold_harms_no_other_wait(
    engine: AsyncEngine, type_: TypeEngine[Any], key: Any
) -> None:
    model = keyed(type_, inserts=True)
    await execute(engine, "CREATE TABLE keyed (k0 integer PRIMARY KEY, n integer)")
    await run(engine, install_triggers, model)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=ALONE) as watcher:
        impossible, other = await armed_waits(watcher, [key, type(key)(7)], model, missing="wait")
        await execute(engine, "INSERT INTO keyed VALUES (7, 1)")
        assert (await other).n == 1
        assert not impossible.done()
        impossible.cancel()
