"""A read fails because of some rows. The waits for these rows fail, and others go on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self

import pytest
from sqlalchemy import URL, Dialect, Text, TypeDecorator, event, func, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import Reason, RowWatcher
from support.models import Order
from support.observed import execute
from support.roles import role
from support.waits import QUICK, armed, armed_wait, notified, polled_because, polled_wait


class Base(DeclarativeBase):
    pass


class Broken(TypeDecorator[str]):
    """A type that cannot read some values."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str:
        if value == "broken":
            raise ValueError(value)
        return str(value)


class Note(Base):
    """The orders, with a note. In some rows the note cannot be loaded."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]
    note: Mapped[str] = mapped_column(Broken)


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    """The note of the first row cannot be loaded."""
    return [{"id": i, "n": i, "note": "broken" if i == 1 else "fine"} for i in range(1, 2001)]


class Connects:
    """Counts the connections that are made in a block."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine
        self.made = 0

    def _count(self, *_: object) -> None:
        self.made += 1

    def __enter__(self) -> Self:
        event.listen(self._engine, "do_connect", self._count)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "do_connect", self._count)


@pytest.mark.parametrize("seconds", [None, 5])
async def test_a_row_that_its_session_cannot_load_is_an_error_and_costs_no_connections(
    orders: AsyncEngine, seconds: float | None
) -> None:
    """Another try would fail too, so the pool keeps its connections."""
    with Connects(orders) as connects:
        async with RowWatcher(orders, timing=QUICK) as watcher, AsyncSession(orders) as session:
            wait = await armed_wait(watcher, session, Note, 1, columns=["n"], timeout=seconds)
            await execute(orders, update(Order).values(n=-1))
            with pytest.raises(ValueError, match="broken"):
                await wait
    assert connects.made < 8


async def test_a_lock_on_the_sessions_own_connection_outlives_a_row_that_cannot_be_loaded(
    orders: AsyncEngine, database: URL
) -> None:
    """The error of a row does not close the caller's connection."""
    async with (
        RowWatcher(orders, timing=QUICK) as watcher,
        orders.connect() as connection,
        AsyncSession(connection) as session,
        rowbell.advisory_lock(session, "nightly"),
    ):
        await session.commit()
        wait = await armed_wait(watcher, session, Note, 1, columns=["n"])
        await execute(database, "UPDATE orders SET n = -1")
        with pytest.raises(ValueError, match="broken"):
            await wait
        await session.rollback()
        held = text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert await session.scalar(held) == 1
        await session.commit()


async def test_rows_that_fail_one_by_one_hold_no_other_wait_of_their_class_up(
    orders: AsyncEngine, database: URL
) -> None:
    """The condition of 400 waits fails for their rows. A wait without a condition is woken."""
    failing: Any = 1 / (Order.n - Order.n) > 0
    async with RowWatcher(orders, mode="poll") as watcher:
        other = await polled_wait(watcher, Order, 5, interval=0.05)
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i, until=failing, interval=0.05))
            for i in range(1, 401)
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await execute(database, "UPDATE orders SET note = 'changed' WHERE id = 5")
        await other
        assert not all(wait.done() for wait in waits)
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, DBAPIError)


async def test_a_row_that_is_slow_each_time_keeps_no_other_from_being_read(
    orders: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """A statement timeout ends no wait, and delays no other row."""
    await execute(
        database,
        "CREATE FUNCTION slow(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        " IF $1 = 2 AND $2 >= 0 THEN PERFORM pg_sleep(5); END IF; RETURN $2 < 0; END $$",
    )
    impatient = create_async_engine(
        database, connect_args={"server_settings": {"statement_timeout": "50"}}
    )
    async with RowWatcher(impatient, mode="poll") as watcher:
        waits = [
            asyncio.create_task(
                watcher.wait_for_change(
                    Order, i, until=func.slow(Order.id, Order.n), interval=0.05, timeout=60
                )
            )
            for i in range(1, 4)
        ]
        await watcher.reached(lambda now: now.failed_reads > 1)
        await execute(database, "UPDATE orders SET n = -1 WHERE id IN (1, 3)")
        await asyncio.gather(waits[0], waits[2])
        assert not waits[1].done()
        await execute(database, "UPDATE orders SET n = -1 WHERE id = 2")
        await waits[1]
    await impatient.dispose()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 2


async def test_a_failing_row_is_found_without_a_second_connection(
    orders: AsyncEngine, database: URL
) -> None:
    async with role(database, "GRANT SELECT ON orders TO {role}") as url:
        await execute(database, f"ALTER ROLE {url.username} CONNECTION LIMIT 1")
        mine = create_async_engine(url, pool_size=1, max_overflow=0)
        async with RowWatcher(mine, mode="poll") as watcher:
            waits = [
                asyncio.create_task(
                    watcher.wait_for_change(
                        Order, i, until=1 / (Order.n - 1) < 0, interval=0.05, timeout=20
                    )
                )
                for i in (1, 2)
            ]
            with pytest.raises(DBAPIError, match="division by zero"):
                await waits[0]
            await execute(database, "UPDATE orders SET n = 0 WHERE id = 2")
            await waits[1]
        await mine.dispose()


async def test_evidence_that_may_not_be_read_is_a_reason_and_no_loop(
    orders: AsyncEngine, database: URL
) -> None:
    """The row can be read, but not the evidence for arming: the wait is polled, with a reason."""
    async with role(database, "GRANT SELECT ON orders TO {role}") as url:
        await execute(
            database, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_snapshot_xmin FROM PUBLIC"
        )
        mine = create_async_engine(url)
        with Connects(mine) as connects:
            async with RowWatcher(mine, recheck=None, timing=QUICK) as watcher:
                wait = await polled_because(watcher, Reason.NOT_PERMITTED)
                await watcher.reached(lambda now: now.queries > 20)
                await execute(database, "UPDATE orders SET n = -1")
                await wait
        assert connects.made < 8
        await mine.dispose()


async def test_an_instance_that_cannot_be_loaded_costs_a_notification_no_connection(
    orders: AsyncEngine, database: URL
) -> None:
    """The read after a notification also loads the instance, but not after that has failed."""
    async with armed(orders, Note, 1, columns=["n"], until=Note.n < 0) as (watcher, wait):
        with Connects(orders) as connects:
            for n in range(20):
                heard = watcher.statistics().notifications
                await execute(database, f"UPDATE orders SET n = {n + 10} WHERE id = 1")
                await watcher.reached(notified(heard))
            await execute(database, "UPDATE orders SET n = -1 WHERE id = 1")
            with pytest.raises(ValueError, match="broken"):
                await wait
        assert connects.made < 8


async def test_a_function_that_was_missing_for_a_moment_is_not_the_keys_fault(
    orders: AsyncEngine, database: URL
) -> None:
    """SQLSTATE 42883 means a missing hash function only if it comes from reading the hash."""
    async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
        with pytest.raises(DBAPIError, match="later"):
            await watcher.wait_for_change(Order, 1, until=func.later(Order.n) == 1, timeout=20)
        wait = await armed_wait(watcher)
        await execute(database, "UPDATE orders SET n = -1")
        await wait
