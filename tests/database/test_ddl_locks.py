"""Our DDL keeps no reader waiting."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import rowbell
from support.models import Order
from support.observed import blocked
from support.waits import run


@pytest.mark.fault("B19")
async def test_a_reader_that_stays_keeps_no_other_reader_waiting_for_our_ddl(
    orders: AsyncEngine,
) -> None:
    """As pg_dump does: removing gives up in time, and says which lock it wanted."""
    async with orders.connect() as dump, orders.connect() as reader:
        await dump.execute(text("LOCK TABLE orders IN ACCESS SHARE MODE"))
        removing = asyncio.create_task(
            run(orders, rowbell.remove_triggers, Order, lock_timeout="300ms")
        )
        await blocked(orders)
        await reader.execute(text("SELECT count(*) FROM orders"))
        with pytest.raises(rowbell.LockTimeoutError, match="ACCESS EXCLUSIVE"):
            await removing
