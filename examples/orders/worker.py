"""The worker: it packs, ships and delivers what was paid, as soon as it was paid.

It sleeps until the table changes. What changes while it works is remembered.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import pairwise
from typing import Final

from models import STATES, Order
from sqlalchemy import case, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import rowbell

PACE: Final = 1.0
"""The seconds that each step takes."""

NEXT: Final = dict(pairwise(STATES[1:]))
"""The state that follows each state in which the worker has something to do."""

logger = logging.getLogger(__name__)


async def one_step(engine: AsyncEngine) -> bool:
    """Take the order that has waited longest to its next state; return whether any is left.

    Several workers do not wait for each other: each takes a row that no other has locked. A row
    that was skipped is left, so the worker looks again: a lock that is given up tells nobody.
    """
    waiting = select(Order.id).where(Order.status.in_(NEXT)).order_by(Order.changed_at).limit(1)
    oldest = waiting.with_for_update(skip_locked=True).scalar_subquery()
    step = (
        update(Order)
        .where(Order.id == oldest)
        .values(status=case(NEXT, value=Order.status), changed_at=func.now())
    )
    async with engine.begin() as connection:
        await connection.execute(step)
        return await connection.scalar(waiting) is not None


async def work(engine: AsyncEngine) -> None:
    """Take steps until no order is left, also after the database was gone for a while."""
    is_left = True
    while is_left:
        await asyncio.sleep(PACE)
        try:
            is_left = await one_step(engine)
        except DBAPIError as error:
            logger.warning("a step failed, and is repeated: %s", error)


async def main() -> None:
    """Work whenever there is something to do."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with rowbell.RowWatcher(engine) as watcher:
        async for _ in watcher.changes(Order, interval=PACE / 10):
            await work(engine)


if __name__ == "__main__":
    asyncio.run(main())
