"""What could make a follow lose a state, repeat one, or never end."""

from __future__ import annotations

import asyncio
import gc
import threading
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, reconstructor, selectinload

import rowbell
from rowbell import NotFoundError, Reason, RowWatcher, WatcherStateError
from support.models import Order
from support.observed import execute, kill_listener, statements
from support.waits import QUICK, reconnected

ROW = update(Order).where(Order.id == 1)
IDLE = 0.1
"""How long nothing may happen, in seconds."""


def watching(engine: AsyncEngine, mode: str = "auto") -> RowWatcher:
    return RowWatcher(engine, mode=mode, recheck=None, timing=QUICK)


async def none_comes(follow: Any) -> bool:
    """Whether nothing comes for a while; the iteration is then cancelled."""
    try:
        async with asyncio.timeout(IDLE):
            await anext(follow)
    except TimeoutError:
        return True
    return False


async def all_steps_are_over(watcher: RowWatcher) -> None:
    await watcher.reached(lambda _: all(watch.is_over for watch in watcher._board.watches))


async def test_follows_that_are_collected_while_the_board_is_busy_leave_it_afterwards(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1)
        await anext(follow)
        waiting = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        dropped: Any = [watcher.follow(Order, 1) for _ in range(20)]
        each: Any = None
        for each in dropped:
            each.itself = each
            await anext(each)
        disconnected = watcher._board.arming.disconnected

        def collect_meanwhile(watches: Any, **more: Any) -> None:
            def collecting() -> Any:
                for watch in watches:
                    gc.collect()
                    yield watch

            disconnected(collecting(), **more)

        monkeypatch.setattr(watcher._board.arming, "disconnected", collect_meanwhile)
        dropped.clear()
        del each
        await kill_listener(orders)
        await watcher.reached(reconnected(0, armed=1))
        await execute(orders, ROW.values(n=1))
        assert (await waiting).n == 1
        assert len(watcher._board.watches) == 1


async def test_that_no_row_was_seen_counts_for_the_first_state_only(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, since=rowbell.ABSENT)
        assert (await anext(follow)).n == 0
        assert await none_comes(follow)


@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_predicate_that_is_asked_all_the_time_repeats_no_state(
    orders: AsyncEngine, mode: str
) -> None:
    async with watching(orders, mode) as watcher:
        follow = watcher.follow(Order, 1, until=lambda order: order.n == 20, interval=0.005)

        async def write() -> None:
            for n in range(1, 21):
                await execute(orders, ROW.values(n=n))
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        seen = [order.n async for order in follow]
        await writing
    assert seen == sorted(set(seen))
    assert seen[-1] == 20


@pytest.mark.parametrize("mode", ["listen", "poll"])
@pytest.mark.parametrize("options", [[], [selectinload(Order.items)]], ids=["plain", "options"])
async def test_what_fulfils_the_condition_is_what_is_delivered(
    orders: AsyncEngine, mode: str, options: Any
) -> None:
    """The instance is of the snapshot that the condition was true in."""
    stopping = asyncio.Event()

    async def flip() -> None:
        while not stopping.is_set():
            await execute(orders, ROW.values(n=1 - Order.n))

    async with watching(orders, mode) as watcher:
        writing = asyncio.create_task(flip())
        for _ in range(20):
            follow = watcher.follow(Order, 1, until=Order.n == 1, interval=0.002, options=options)
            states = [order.n async for order in follow]
            assert states[-1] == 1
            assert all(one != other for one, other in pairwise(states))
            found = await watcher.wait_for_change(
                Order, 1, until=Order.n == 1, interval=0.002, options=options
            )
            assert found.n == 1
        stopping.set()
        await writing


@pytest.mark.parametrize("fails", [False, True])
async def test_what_the_first_read_has_added_to_since_is_kept(
    orders: AsyncEngine, fails: bool
) -> None:
    """Also if the iteration was cancelled, or the predicate has failed."""
    failing = fails

    def never(_: Order) -> bool:
        nonlocal failing
        if failing:
            failing = False
            raise LookupError
        return False

    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, since={"n": 0}, until=never if fails else None)
        if fails:
            with pytest.raises(LookupError):
                await anext(follow)
        assert await none_comes(follow)
        await execute(orders, ROW.values(status="paid"))
        if not fails:
            await all_steps_are_over(watcher)
        assert (await anext(follow)).status == "paid"


async def test_a_reappearance_is_a_state_also_after_the_predicate_has_failed(
    orders: AsyncEngine,
) -> None:
    asked = 0

    def fails_once(_: Order) -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LookupError
        return False

    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, missing="wait", until=fails_once, interval=0.02)
        assert (await anext(follow)).n == 0
        failing = asyncio.ensure_future(anext(follow))
        await execute(orders, delete(Order).where(Order.id == 1))
        await watcher.reached(lambda now: now.reason is Reason.INSERTS_NOT_DECLARED)
        await execute(orders, insert(Order).values(id=1, n=0))
        with pytest.raises(LookupError):
            await failing
        assert (await anext(follow)).n == 0


@pytest.mark.parametrize("error", [NotFoundError, WatcherStateError, StopAsyncIteration])
async def test_an_error_of_the_predicate_is_not_taken_for_one_of_the_library(
    orders: AsyncEngine, error: Any
) -> None:
    def fails(_: Order) -> bool:
        raise error(Order, {}) if error is NotFoundError else error("mine")

    async with watching(orders) as watcher:
        follow = watcher.follow(Order, 1, until=fails)
        with pytest.raises(RuntimeError if error is StopAsyncIteration else error):
            await anext(follow)
        assert follow.ended is None


async def test_instances_that_change_themselves_when_they_are_loaded_repeat_no_state(
    orders: AsyncEngine,
) -> None:
    class Base(DeclarativeBase):
        pass

    class Own(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str | None]

        @reconstructor
        def fill(self) -> None:
            self.note = self.note or "filled"

    async with watching(orders) as watcher:
        follow = watcher.follow(Own, 1, interval=0.02)
        assert (await anext(follow)).note == "filled"
        assert await none_comes(follow)


async def test_closing_the_watcher_ends_a_follow_of_many_that_has_news_left(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, [1, 2])
        assert {(await anext(follow))[0] for _ in range(2)} == {1, 2}
        assert await none_comes(follow)
        await execute(orders, update(Order).values(n=1))
        await all_steps_are_over(watcher)
    assert {key async for key, _ in follow} == {1, 2}
    assert follow.ended == "closed"
    assert len(watcher._board.watches) == 0


async def test_closing_the_watcher_before_the_first_iteration_ends_a_follow(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        follow, many = watcher.follow(Order, 1), watcher.follow_many(Order, [1])
        changes = watcher.changes(Order)
    assert [order async for order in follow] == []
    assert [key async for key, _ in many] == []
    assert [resync async for resync in changes] == []
    assert (follow.ended, many.ended, changes.ended) == ("closed", "closed", "closed")


async def test_a_row_that_cannot_be_armed_is_an_error_once_and_the_others_go_on(
    orders: AsyncEngine,
) -> None:
    async with watching(orders, "listen") as watcher:
        follow = watcher.follow_many(Order, [1, 999])
        assert dict([await anext(follow) for _ in range(2)])[999] is None
        with pytest.raises(rowbell.ListenError, match="inserts_not_declared"):
            await anext(follow)
        state = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, ROW.values(n=1))
        assert (await state)[0] == 1


async def test_another_event_loop_is_refused_and_harms_nothing(orders: AsyncEngine) -> None:
    errors: list[Exception] = []

    async def iterate(follow: Any) -> None:
        try:
            await anext(follow)
        except WatcherStateError as error:
            errors.append(error)

    async with watching(orders) as watcher:
        follow, many = watcher.follow(Order, 1), watcher.follow_many(Order, [1])
        for each in (follow, many):
            thread = threading.Thread(target=asyncio.run, args=(iterate(each),))
            thread.start()
            await asyncio.to_thread(thread.join)
        assert [str(error).split(": ")[-1] for error in errors] == ["create one here"] * 2
        assert (await anext(follow)).n == 0
        assert (await anext(many))[0] == 1


async def test_following_no_rows_checks_the_arguments_and_ends_if_there_is_a_condition(
    orders: AsyncEngine,
) -> None:
    async with watching(orders) as watcher:
        with pytest.raises(rowbell.InvalidColumnError):
            watcher.follow_many(Order, [], columns=["missing"])
        follow = watcher.follow_many(Order, [], until=Order.n == 1)
        assert [key async for key, _ in follow] == []
        assert follow.ended == "until"


async def test_news_that_are_already_there_do_not_hold_up_the_event_loop(
    orders: AsyncEngine,
) -> None:
    await execute(orders, insert(Order).values([{"id": 1000 + i} for i in range(500)]))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, range(1000, 1500))
        await anext(follow)
        counting = asyncio.create_task(count())
        with statements(orders) as sent:
            for _ in range(499):
                await anext(follow)
        counting.cancel()
        assert turns >= 499
        assert sent == []


async def test_a_follow_that_outlives_its_event_loop_leaves_no_message(
    orders: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Any] = []

    async def begin() -> None:
        engine = create_async_engine(orders.url)
        async with watching(engine) as watcher:
            kept.append(watcher.follow(Order, 1))
            await anext(kept[0])
            assert await none_comes(kept[0])
        await engine.dispose()

    await asyncio.to_thread(asyncio.run, begin())
    kept.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text
