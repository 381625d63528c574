"""The worker: it packs, ships and delivers what was paid, as soon as it was paid.

It sleeps until the table changes. What changes while it works is remembered.
"""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import Final

from models import STATES, Order
from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import rowbell

PACE: Final = 1.0
"""The seconds that each step takes."""

NEXT: Final = dict(pairwise(STATES[1:]))
"""The state that follows each state in which the worker has something to do."""


async def one_step(engine: AsyncEngine) -> bool:
    """Take the order that has waited longest to its next state; return whether there was one.

    Several workers do not wait for each other: each takes a row that no other has locked.
    """
    oldest = (
        select(Order.id)
        .where(Order.status.in_(NEXT))
        .order_by(Order.changed_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    step = (
        update(Order)
        .where(Order.id == oldest)
        .values(status=case(NEXT, value=Order.status), changed_at=func.now())
        .returning(Order.id)
    )
    async with engine.begin() as connection:
        return await connection.scalar(step) is not None


async def main() -> None:
    """Work whenever there is something to do."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with rowbell.RowWatcher(engine) as watcher:
        async for _ in watcher.changes(Order, interval=PACE / 10):
            is_busy = True
            while is_busy:
                await asyncio.sleep(PACE)
                is_busy = await one_step(engine)


if __name__ == "__main__":
    asyncio.run(main())
