"""The table ``orders`` with some rows, and a change of one of them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import URL, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from support.catalogue import seen
from support.models import Order
from support.observed import execute

CHANGE: Final = "UPDATE orders SET n = n + 1 WHERE id = 1"


async def add_orders(engine: AsyncEngine, first: int, last: int) -> None:
    """Insert the orders with these numbers, including the last one."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": id_} for id_ in range(first, last + 1)])


async def change(engine: AsyncEngine, key: int = 1) -> None:
    """Add 1 to ``n`` of an order."""
    await execute(engine, update(Order).where(Order.id == key).values(n=Order.n + 1))


async def changed(wait: asyncio.Task[Any], database: URL) -> None:
    """Change order 1, and check that its wait returns the change."""
    await execute(database, CHANGE)
    await seen(wait)
