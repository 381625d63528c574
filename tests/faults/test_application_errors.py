"""An error or a cancellation in the application's code affects only the wait it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, Dialect, Text, TypeDecorator, event, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell import RowWatcher, WatcherState, WatcherStateError
from support.models import Order, Plain
from support.observed import execute
from support.waits import QUICK, armed_wait


class Base(DeclarativeBase):
    pass


def raising(error: type[BaseException]) -> Callable[[Any], object]:
    def predicate(_: object) -> object:
        raise error("mine")

    return predicate


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError, StopAsyncIteration])
async def test_an_exception_of_a_predicate_is_raised_by_its_wait(
    orders: AsyncEngine, error: type[BaseException]
) -> None:
    """This includes exceptions with a meaning in asyncio. Other waits go on."""
    async with RowWatcher(orders) as watcher:
        beside = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=0.05, timeout=20))
        with pytest.raises((RuntimeError, StopAsyncIteration)) as raised:
            await watcher.wait_for_change(Order, 1, until=raising(error), timeout=5)
        assert isinstance(raised.value.__cause__ or raised.value, error)
        await execute(orders, update(Order).values(n=1))
        assert (await beside).n == 1


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError])
async def test_an_exception_of_a_condition_on_statistics_is_raised_by_reached(
    engine: AsyncEngine, error: type[BaseException]
) -> None:
    async with RowWatcher(engine) as watcher:
        asked = 0

        def condition(_: object) -> bool:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise error
            return False

        reached = asyncio.create_task(watcher.reached(condition))
        beside = asyncio.create_task(watcher.reached(lambda now: now.polled == 1))
        await asyncio.sleep(0)  # both conditions are checked for the first time
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
        with pytest.raises(RuntimeError, match=error.__name__):
            await reached
        await beside
        await asyncio.gather(wait, return_exceptions=True)


@pytest.mark.parametrize("of", ["the listener", "a read"])
async def test_a_hook_that_is_cancelled_costs_one_try(
    orders: AsyncEngine, database: URL, of: str
) -> None:
    """A token refresh may raise CancelledError although nothing has canceled the wait."""
    failures = 0

    async def creator() -> asyncpg.Connection[Any]:
        nonlocal failures
        if failures:
            failures -= 1
            raise asyncio.CancelledError("the token refresh was cancelled")
        dsn = database.set(drivername="postgresql").render_as_string(hide_password=False)
        return await asyncpg.connect(dsn)

    mine = create_async_engine(
        "postgresql+asyncpg://", async_creator=creator, pool_size=1, max_overflow=0
    )
    if of == "the listener":
        failures = 1
    async with RowWatcher(mine, recheck=None, timing=QUICK) as watcher:
        await watcher.reached(lambda now: now.state is WatcherState.LISTENING)
        assert failures == 0
        first = await armed_wait(watcher, interval=0.1)
        async with mine.connect():
            failures = int(of == "a read")
            second = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=0.1))
            await watcher.reached(lambda now: now.armed == 2)
        assert failures == 0
        await execute(database, "UPDATE orders SET n = 1")
        assert [(await wait).n for wait in (first, second)] == [1, 1]
    await mine.dispose()


class Cancelling(TypeDecorator[str]):
    """A type. Its conversion raises CancelledError."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str:
        raise asyncio.CancelledError


class Cancelled(Base):
    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[str] = mapped_column(Cancelling)


async def test_a_type_that_is_cancelled_fails_its_wait(engine: AsyncEngine) -> None:
    await execute(engine, insert(Plain).values(id=1))
    async with RowWatcher(engine, mode="poll") as watcher:
        with pytest.raises(RuntimeError, match="was cancelled"):
            await watcher.wait_for_change(Cancelled, 1, until=lambda _: True, timeout=5)
        assert watcher.statistics().state is WatcherState.POLLING


@pytest.mark.parametrize("part", ["reader", "subscription"])
async def test_a_task_of_ours_that_ends_closes_the_watcher(
    orders: AsyncEngine,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The waits raise, and the log has the cause. The reported state is always true."""
    watcher = RowWatcher(orders, recheck=None)
    end = asyncio.Event()

    async def run() -> None:
        await end.wait()
        raise asyncio.CancelledError

    monkeypatch.setattr(getattr(watcher._life._parts, part), "run", run)
    watcher.start()
    wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
    await asyncio.sleep(0)  # the wait begins in this turn of the event loop
    end.set()
    with pytest.raises(WatcherStateError, match="failed"):
        await wait
    assert watcher.statistics().state is WatcherState.CLOSED
    assert "its waits end" in caplog.text
    await watcher.aclose()


@pytest.mark.parametrize("failure", [type("Mine", (BaseException,), {}), GeneratorExit])
async def test_a_base_exception_of_a_predicate_ends_its_wait_alone(
    orders: AsyncEngine, failure: type[BaseException]
) -> None:
    """``pytest.fail()`` in a predicate raises a BaseException."""

    def predicate(_: object) -> bool:
        raise failure

    async with RowWatcher(orders, mode="poll") as watcher:
        beside = asyncio.create_task(watcher.wait_for_change(Order, 2, interval=0.02, timeout=20))
        with pytest.raises((failure, RuntimeError)):
            await watcher.wait_for_change(Order, 1, until=predicate, timeout=5)
        await execute(orders, update(Order).values(n=-1))
        await beside


async def test_a_hook_of_the_session_that_is_cancelled_fails_the_wait_and_not_its_task(
    orders: AsyncEngine, database: URL
) -> None:
    """In a task group, a CancelledError would end the caller's task without an error."""
    async with RowWatcher(orders, timing=QUICK) as watcher, AsyncSession(orders) as session:

        def cancelled(_: object) -> None:
            raise asyncio.CancelledError

        event.listen(session.sync_session, "do_orm_execute", cancelled)
        wait = await armed_wait(watcher, session, Order, 1)
        await execute(database, "UPDATE orders SET n = -1")
        with pytest.raises(RuntimeError, match="was cancelled"):
            await wait
