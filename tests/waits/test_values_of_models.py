"""Whether a value has changed does not depend on the column's type in the model."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    CHAR,
    DateTime,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import rowbell
from rowbell import RowWatcher
from support.observed import execute
from support.tables import valued
from support.waits import QUICK, armed


class Shouted(TypeDecorator[str]):
    """A type that hides a difference: the application sees only uppercase."""

    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return value.upper() if value else value


class Encrypted(TypeDecorator[str]):
    """A type that gives a new ciphertext for each encryption."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        nonce = secrets.token_bytes(4)
        return None if value is None else nonce + value.encode()

    def process_result_value(self, value: bytes | None, dialect: Any) -> str | None:
        return None if value is None else value[4:].decode()


@pytest.mark.parametrize("type_", [Shouted, Encrypted])
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_value_that_the_applications_type_calls_the_same_is_not_a_change_since(
    engine: AsyncEngine, type_: Any, mode: str
) -> None:
    """``since`` has a value or an instance. Its type sends a different value each time."""
    model = valued(type_)
    async with engine.begin() as connection:
        await connection.run_sync(model.metadata.create_all)
        await connection.run_sync(rowbell.install_triggers, model)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add(model(id=1, value="ann"))
        await session.commit()
    async with AsyncSession(engine) as session:
        seen = await session.get_one(model, 1)
    async with RowWatcher(engine, mode=mode) as watcher:
        for since in (seen, {"value": seen.value}):
            with pytest.raises(rowbell.WaitTimeoutError):
                await watcher.wait_for_change(model, 1, since=since, interval=0.05, timeout=0.3)
        changed = await watcher.wait_for_change(model, 1, since={"value": "bob"}, timeout=5)
        assert changed.value == seen.value
        following = asyncio.create_task(
            watcher.wait_for_change(model, 1, since=seen, interval=0.05, timeout=20)
        )
        await asyncio.sleep(0)
        async with AsyncSession(engine) as session:
            (await session.get_one(model, 1)).value = "bob"
            await session.commit()
        assert (await following).value.lower() == "bob"


async def test_a_change_of_a_columns_type_is_noticed(engine: AsyncEngine) -> None:
    """When the column changes, its type is queried again."""
    model = valued()
    await execute(engine, "CREATE TABLE valued (id int PRIMARY KEY, value timestamp)")
    await execute(engine, "INSERT INTO valued VALUES (1, '2026-01-01')")
    async with engine.begin() as connection:
        await connection.run_sync(rowbell.install_triggers, model)
    async with armed(engine, model, timing=QUICK) as (_, wait):
        await execute(engine, "ALTER TABLE valued ALTER value TYPE timestamptz")
        await execute(engine, "UPDATE valued SET value = '2027-01-01'")
        assert (await wait).value.year == 2027


OTHERWISE: list[tuple[Any, str, str]] = [
    (Numeric(10, 2), "numeric", "1.005"),
    (Numeric(asdecimal=False), "numeric", "0.12345678901234567891"),
    (Integer, "numeric", "5"),
    (Float(24), "float8", "0.1"),
    (String(3), "text", "abcdef"),
    (String, "citext", "Ab"),
    (String, "inet", "10.0.0.1"),
    (CHAR(3), "text", "ab "),
    (DateTime, "timestamptz", "2026-01-01 12:00Z"),
    (DateTime(timezone=True), "timestamp", "2026-01-01 12:00"),
    (Interval, "interval", "1 year 00:00:01.5"),
    (ARRAY(String(2)), "text[]", "{abcd}"),
    (JSONB, "json", '{"a": 1.50}'),
]
"""The type in the model, the type in the database, and a value that differs between the two."""


@pytest.mark.parametrize(("said", "type_", "value"), OTHERWISE, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_since_what_was_loaded_is_no_change_whatever_the_model_says(
    typed: AsyncEngine, said: Any, type_: str, value: str, mode: str
) -> None:
    """A loop that follows a row does not spin, and continues when the row changes."""
    model = valued(said)
    await execute(typed, f"CREATE TABLE valued (id int PRIMARY KEY, value {type_})")
    async with typed.begin() as connection:
        store = text(f"INSERT INTO valued VALUES (1, CAST(CAST(:v AS text) AS {type_}))")
        await connection.execute(store, {"v": value})
        await connection.run_sync(rowbell.install_triggers, model)
    async with AsyncSession(typed) as session:
        seen = await session.get_one(model, 1)
    async with RowWatcher(typed, mode=mode, recheck=None) as watcher:
        with pytest.raises(rowbell.WaitTimeoutError):
            await watcher.wait_for_change(model, 1, since=seen, interval=0.05, timeout=0.2)
        wait = asyncio.create_task(
            watcher.wait_for_change(model, 1, since=seen, interval=0.05, timeout=20)
        )
        await asyncio.sleep(0)
        await execute(typed, "UPDATE valued SET value = NULL")
        assert (await wait).value is None
