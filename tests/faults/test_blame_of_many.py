"""Among many waits, only those that cause an error fail. Finding them takes few queries."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import URL, ColumnElement, insert, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import RowWatcher
from support.models import Order
from support.observed import execute
from support.orders import add_orders
from support.waits import QUICK, armed_waits

DROPPED = ["ALTER TABLE orders DROP COLUMN note", "ALTER TABLE orders RENAME TO former"]


@pytest.mark.parametrize("mode", ["listen", "poll"])
@pytest.mark.parametrize("migration", DROPPED)
async def test_an_error_of_all_rows_is_asked_for_once(
    engine: AsyncEngine, database: URL, migration: str, mode: str
) -> None:
    """Five hundred waits fail with the error, after few queries."""
    await add_orders(engine, 1, 500)
    small = create_async_engine(database, pool_size=1, max_overflow=0)
    async with RowWatcher(small, mode=mode, recheck=0.3, timing=QUICK) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, interval=0.3))
            for i in range(1, 501)
        ]
        await watcher.reached(lambda now: now.armed + now.polled == 500 and now.queries > 1)
        if mode == "listen":
            await watcher.reached(lambda now: now.armed == 500)
        async with small.connect():  # the pool has one connection, and it is in use
            before = watcher.statistics().queries
            await execute(database, migration)
            ended = await asyncio.gather(*waits, return_exceptions=True)
            assert watcher.statistics().queries - before < 20
    assert {type(error) for error in ended} == {ProgrammingError}
    assert len({id(error) for error in ended}) == 500  # each has its own traceback
    await small.dispose()


async def test_a_column_that_only_the_instances_have_is_asked_for_once(
    engine: AsyncEngine, database: URL
) -> None:
    """The watched columns can be read, but the instances to return cannot be loaded."""
    await add_orders(engine, 1, 300)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = await armed_waits(watcher, range(1, 301), columns=["n"])
        await execute(database, "ALTER TABLE orders DROP COLUMN note")
        before = watcher.statistics().queries
        await execute(database, "UPDATE orders SET n = 1 WHERE id <= 200")
        ended = await asyncio.gather(*waits[:200], return_exceptions=True)
        assert {type(error) for error in ended} == {ProgrammingError}
        assert watcher.statistics().queries - before < 30
        assert not any(wait.done() for wait in waits[200:])


async def test_a_dropped_column_fails_only_the_waits_that_watch_it(
    orders: AsyncEngine, database: URL
) -> None:
    """Other waits of the class go on."""
    async with RowWatcher(orders, mode="poll") as watcher:
        bad, good = (
            [
                asyncio.create_task(
                    watcher.wait_for_change(
                        Order, i, columns=[column], interval=0.02, until=until, timeout=30
                    )
                )
                for i in range(1, 5)
            ]
            for column, until in (("note", None), ("n", Order.n == 1))
        )
        await watcher.reached(lambda now: now.queries > 3)
        await execute(database, "ALTER TABLE orders DROP COLUMN note")
        for error in await asyncio.gather(*bad, return_exceptions=True):
            assert isinstance(error, ProgrammingError)
        await execute(database, "ALTER TABLE orders ADD note text", "UPDATE orders SET n = 1")
        assert [order.n for order in await asyncio.gather(*good)] == [1] * 4


async def test_one_row_of_many_that_cannot_be_read_is_the_only_one_to_fail(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i, "n": i % 50} for i in range(1, 50)])
        await connection.execute(insert(Order), [{"id": 50, "n": 0}])
    ten_by_n: ColumnElement[bool] = 10 / Order.n < 0
    async with RowWatcher(engine, mode="poll") as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(Order, i, until=ten_by_n, interval=0.05, timeout=30)
            )
            for i in range(1, 51)
        ]
        with pytest.raises(DBAPIError, match="division by zero"):
            await waits[-1]
        assert not any(wait.done() for wait in waits[:-1])
        await execute(engine, update(Order).values(n=-1))
        await asyncio.gather(*waits[:-1])


async def test_one_unreadable_key_fails_only_its_own_wait(orders: AsyncEngine) -> None:
    """If the server refuses a value, only the wait with that value raises."""
    from support.models import Seat

    await execute(orders, insert(Seat).values(row="a", number=1))
    async with RowWatcher(orders, mode="poll") as watcher:
        good = asyncio.create_task(
            watcher.wait_for_change(Seat, ("a", 1), interval=0.02, timeout=20)
        )
        bad = asyncio.create_task(watcher.wait_for_change(Seat, ("\0", 1), timeout=20))
        with pytest.raises(DBAPIError, match=r"invalid byte sequence|NUL"):
            await bad
        await execute(orders, update(Seat).values(taken=True))
        assert (await good).taken


WAITS = 2_000


async def test_one_bad_row_of_thousands_is_found_in_few_reads(orders: AsyncEngine) -> None:
    """The batch is halved until the row is found. Only its wait fails; the others go on."""
    await add_orders(orders, 101, WAITS)
    async with RowWatcher(orders, mode="poll") as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(
                    Order, key, interval=3600, until=Order.n / (Order.id - 1000) > 0
                )
            )
            for key in range(1, WAITS + 1)
        ]
        with pytest.raises(DBAPIError, match="division by zero"):
            await waits[999]
        assert watcher.statistics().queries < 60
        assert sum(wait.done() for wait in waits) == 1
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
