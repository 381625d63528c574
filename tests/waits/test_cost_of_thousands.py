"""Thousands of waits are processed in batches. Statements are counted, not timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import event, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell import RowWatcher, Timing, wait_for_row_change
from rowbell._watch.reading.batch import SLICE
from support.models import Odd, Order
from support.observed import everything_sent, execute
from support.waits import armed_waits

WAITS = 2_000


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    return [{"id": id_} for id_ in range(1, WAITS + 1)]


@pytest.mark.parametrize("old", ["no old transaction", "an old transaction"])
async def test_waits_that_begin_at_once_are_armed_in_batches_and_end_in_batches(
    orders: AsyncEngine, other: AsyncSession, old: str
) -> None:
    """All connections together execute few statements to arm them, and few to wake them.

    An old transaction elsewhere delays the proof, and reads are repeated until it is narrowed.
    """
    if old == "an old transaction":
        await other.execute(text("SELECT pg_catalog.pg_current_xact_id()"))
    with everything_sent(orders) as sent:
        quick = Timing(narrow=0.05)  # a second by default, for which reads are repeated
        async with RowWatcher(orders, mode="listen", recheck=None, timing=quick) as watcher:
            sent.clear()
            waits = await armed_waits(watcher, range(1, WAITS + 1), since={"n": 0})
            # Those that the clock sends depend on how long it takes.
            timed = ("rowbell.heartbeat", "rowbell.tables_without_writers")
            needed = [statement for statement in sent if not any(t in statement for t in timed)]
            assert len(needed) <= 18, "\n".join(statement[:200] for statement in needed)
            sent.clear()
            await execute(orders, update(Order).values(n=1))
            assert [order.n for order in await asyncio.gather(*waits)] == [1] * WAITS
            assert len(sent) <= 8


@pytest.mark.parametrize("until", [None, lambda order: order.n == 1], ids=["values", "orm"])
async def test_the_event_loop_goes_on_while_thousands_of_rows_are_looked_at(
    orders: AsyncEngine, until: Callable[[Order], bool] | None
) -> None:
    """Other tasks of the application wait at most for a few hundred rows."""
    turn, ended = 0, Counter[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)  # one turn of the loop
            turn += 1

    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, key, until=until))
            for key in range(1, WAITS + 1)
        ]
        for wait in waits:
            wait.add_done_callback(lambda _: ended.update([turn]))
        await watcher.reached(lambda now: now.armed == WAITS)
        turns = asyncio.create_task(count_turns())
        await execute(orders, update(Order).values(n=1))
        await asyncio.wait(waits)
        turns.cancel()
    assert ended.total() == WAITS
    assert max(ended.values()) <= SLICE


async def test_a_session_of_ones_own_costs_no_statement(orders: AsyncEngine) -> None:
    """The instance from the read is added to the session."""

    async def one(key: int) -> int:
        async with AsyncSession(orders) as session:
            order = await wait_for_row_change(session, Order, key)
            assert order in session
            return order.n

    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        waits = [asyncio.create_task(one(key)) for key in range(1, WAITS + 1)]
        await watcher.reached(lambda now: now.armed == WAITS)
        with everything_sent(orders) as sent:
            await execute(orders, update(Order).values(n=1))
            assert sum(await asyncio.gather(*waits)) == WAITS
        assert len(sent) <= 8


@pytest.mark.fault("B35")
async def test_after_a_lost_connection_all_rows_are_read_and_registered_in_batches(
    orders: AsyncEngine,
) -> None:
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'rowbell%'"
    )
    quick = Timing(narrow=0.05)  # other tests may hold old transactions
    with everything_sent(orders) as sent:
        async with RowWatcher(orders, mode="listen", recheck=None, timing=quick) as watcher:
            waits = await armed_waits(watcher, range(1, WAITS + 1))
            sent.clear()
            async with orders.begin() as connection:
                assert await connection.scalar(kill) == 1
                await connection.execute(update(Order).where(Order.id == 1).values(n=1))
            assert (await waits[0]).n == 1
            await watcher.reached(lambda now: now.armed == WAITS - 1)
            assert len(sent) <= WAITS / 10
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)


async def test_waits_that_begin_at_once_take_no_connection_each(engine: AsyncEngine) -> None:
    """Also if the value of ``since`` must be converted by the server."""
    keys = [uuid4() for _ in range(100)]
    async with engine.begin() as connection:
        await connection.execute(insert(Odd), [{"Id": key, "amount": 1} for key in keys])
    opened: list[object] = []
    event.listen(engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
    async with RowWatcher(engine, mode="listen", recheck=None) as watcher:
        waits = await armed_waits(watcher, keys, Odd, since={"amount": Decimal("1.0")})
        assert len(opened) <= 8
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
