"""Composite keys, and classes with inheritance."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from rowbell import wait_for_row_change
from support.ground import Ground
from support.models import Animal, Dog, Seat


@pytest.mark.parametrize("key", [("a", 1), {"number": 1, "row": "a"}, ["a", 1]])
async def test_composite_keys_are_given_as_session_get_takes_them(
    ground: Ground, session: AsyncSession, key: Any
) -> None:
    await ground.execute(
        insert(Seat).values([{"row": "a", "number": n, "taken": False} for n in (1, 2)])
    )
    async with ground.begun(wait_for_row_change, session, Seat, key) as wait:
        await ground.execute("UPDATE seats SET taken = true WHERE number = 2")
        await ground.still_waiting(wait)
        await ground.execute("UPDATE seats SET taken = true WHERE number = 1")
        assert (await wait).taken


@pytest.mark.parametrize(("table", "column"), [("animals", "name"), ("dogs", "tricks")])
async def test_joined_inheritance_watches_both_tables(
    ground: Ground, session: AsyncSession, table: str, column: str
) -> None:
    await ground.execute(
        "INSERT INTO animals VALUES (1, 'dog', 'Rex')", "INSERT INTO dogs VALUES (1, 0)"
    )
    async with ground.begun(wait_for_row_change, session, Dog, 1) as wait:
        await ground.execute(f"UPDATE {table} SET {column} = '7'")
        assert str(getattr(await wait, column)) == "7"


async def test_a_base_class_returns_the_subclass(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(
        "INSERT INTO animals VALUES (1, 'dog', 'Rex')", "INSERT INTO dogs VALUES (1, 0)"
    )
    async with ground.begun(wait_for_row_change, session, Animal, 1) as wait:
        await ground.execute("UPDATE animals SET name = 'Max'")
        assert isinstance(await wait, Dog)
