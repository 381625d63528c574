"""A condition is checked after a change; if it depends on more than the row, also at intervals."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import ListenError, Reason, RowWatcher
from support.models import Order
from support.observed import blocked, execute
from support.offers import Offer, OfferBase
from support.waits import QUICK, armed_wait, polled_because


def has_expired(offer: Offer) -> bool:
    return offer.expires_at <= datetime.now(UTC)


@pytest.fixture
async def offers(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(OfferBase.metadata.create_all)
    return engine


@pytest.mark.parametrize("mode", ["auto", "poll"])
@pytest.mark.parametrize(
    "until", [Offer.expires_at <= func.now(), has_expired], ids=["sql", "function"]
)
async def test_a_condition_that_time_fulfils_ends_the_wait(
    offers: AsyncEngine, mode: str, until: Any
) -> None:
    """The row does not change. The wait ends when the condition holds, armed or polled."""
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    await execute(offers, insert(Offer).values(id=1, expires_at=soon))
    async with RowWatcher(offers, mode=mode, recheck=None) as watcher:
        offer = await watcher.wait_for_change(Offer, 1, until=until, interval=0.1, timeout=20)
    assert datetime.now(UTC) >= soon
    assert offer.expires_at == soon


async def test_an_armed_predicate_is_asked_again_without_a_query(offers: AsyncEngine) -> None:
    asked = asyncio.Event()
    times = 0

    def predicate(_: Offer) -> bool:
        nonlocal times
        times += 1
        if times > 3:
            asked.set()
        return False

    await execute(offers, insert(Offer).values(id=1, expires_at=datetime.now(UTC)))
    async with RowWatcher(offers, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Offer, 1, until=predicate, interval=0.02)
        queries, times = watcher.statistics().queries, 0
        await asked.wait()
        assert watcher.statistics().queries <= queries + 1  # one was already running
        wait.cancel()


async def test_a_predicate_is_asked_for_the_last_time_when_the_time_is_over(
    offers: AsyncEngine,
) -> None:
    async with offers.begin() as connection:
        soon = datetime.now(UTC) + timedelta(seconds=0.1)
        await connection.execute(insert(Offer).values(id=1, expires_at=soon))
    async with RowWatcher(offers, mode="poll") as watcher:
        await watcher.wait_for_change(Offer, 1, until=has_expired, interval=60, timeout=0.3)


async def test_why_a_condition_is_polled_is_said(
    offers: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """In ``mode="listen"``, which does not poll, such a condition is refused."""
    await execute(offers, insert(Offer).values(id=1, expires_at=datetime.now(UTC)))
    until = Offer.expires_at > func.now() + timedelta(days=1)
    with caplog.at_level(logging.WARNING, "rowbell"):
        async with RowWatcher(offers) as watcher:
            wait = await polled_because(watcher, Reason.VARYING_CONDITION, Offer, 1, until=until)
            wait.cancel()
    assert "model Offer, whose condition depends on now()" in caplog.text
    async with RowWatcher(offers, mode="listen") as watcher:
        with pytest.raises(ListenError, match=r"now\(\)") as refused:
            await watcher.wait_for_change(Offer, 1, until=until)
        assert refused.value.reason is Reason.VARYING_CONDITION


async def test_a_change_still_ends_what_is_asked_again(orders: AsyncEngine) -> None:
    """The predicate of an armed wait is called at once after a change, whatever the interval is."""
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, until=lambda order: order.n == 1)
        await execute(orders, update(Order).values(n=1))
        assert (await wait).n == 1


async def test_a_row_of_a_table_that_is_swapped_meanwhile_is_not_missing(
    orders: AsyncEngine,
) -> None:
    """The read waits for a lock, with a snapshot from before it."""
    async with RowWatcher(orders, mode="poll", timing=QUICK) as watcher, orders.connect() as swap:
        await swap.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        wait = asyncio.create_task(
            watcher.wait_for_change(Order, 1, until=Order.n == 5, interval=0.05)
        )
        await blocked(orders)
        await swap.execute(text("CREATE TABLE orders_next (LIKE orders INCLUDING ALL)"))
        await swap.execute(text("INSERT INTO orders_next SELECT * FROM orders"))
        await swap.execute(text("ALTER TABLE orders RENAME TO orders_former"))
        await swap.execute(text("ALTER TABLE orders_next RENAME TO orders"))
        await swap.commit()
        await execute(orders, "UPDATE orders SET n = 5 WHERE id = 1")
        assert (await wait).n == 5
