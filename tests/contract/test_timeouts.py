"""A wait ends within its timeout, and sees every change committed before it."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell import WaitTimeoutError, wait_for_row_change
from support.ground import BRIEF, Ground
from support.models import Order


async def test_no_change_within_the_timeout_is_a_timeout_error(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(TimeoutError, match=r"No change detected in Order\(id=1\) within 0.15s"):
        await wait_for_row_change(session, Order, 1, timeout=BRIEF)
    assert (await session.get_one(Order, 1)).status == "new"


@pytest.mark.fault("B32")
async def test_a_timeout_below_the_interval_sees_the_change(
    ground: Ground, session: AsyncSession
) -> None:
    """The last read happens after the timeout has passed."""
    async with ground.begun(
        wait_for_row_change, session, Order, 1, interval=60, timeout=0.5
    ) as wait:
        await ground.execute(update(Order).where(Order.id == 1).values(status="paid"))
        assert (await wait).status == "paid"


@pytest.mark.fault("B32")
async def test_a_timeout_of_zero_reads_and_gives_up(ground: Ground, session: AsyncSession) -> None:
    with pytest.raises(WaitTimeoutError):
        await wait_for_row_change(session, Order, 1, timeout=0)
    await ground.execute(update(Order).values(status="paid"))
    order = await wait_for_row_change(session, Order, 1, timeout=0, since={"status": "new"})
    assert order.status == "paid"


@pytest.mark.fault("B32")
async def test_the_timeout_is_wall_time(ground: Ground, engine: AsyncEngine) -> None:
    """Hundreds of waits with a short interval end at their timeouts."""
    loop = asyncio.get_running_loop()

    async def wait() -> float:
        with pytest.raises(WaitTimeoutError):
            await ground.watcher.wait_for_change(Order, 1, interval=0.01, timeout=0.3)
        return loop.time()

    begun = loop.time()
    ended = await asyncio.gather(*(wait() for _ in range(300)))
    assert begun + 0.3 <= min(ended)
    assert max(ended) < begun + 3
