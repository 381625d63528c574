"""A session gets its row from the read that ended the wait, as if it had selected the row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from sqlalchemy import URL, event, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm.exc import StaleDataError

from rowbell import RowWatcher, wait_for_row_change
from support.models import Item, Order
from support.observed import execute, statements
from support.tasks import Task, set_state
from support.waits import armed_wait

Prepare: TypeAlias = Callable[[AsyncSession], Awaitable[Any]]


@pytest.fixture
async def watcher(orders: AsyncEngine) -> AsyncIterator[RowWatcher]:
    await execute(orders, insert(Item).values(id=1, order_id=1, name="a"))
    async with RowWatcher(orders, mode="listen", recheck=None) as watcher:
        yield watcher


async def absent(session: AsyncSession) -> None:
    """The session does not have the row."""


async def present(session: AsyncSession) -> Order:
    """The session has the row: expired or loaded, as its ``expire_on_commit`` says."""
    order = await session.get_one(Order, 1)
    await session.commit()
    return order


async def with_its_items(session: AsyncSession) -> Order:
    order = await session.get_one(Order, 1)
    await session.refresh(order, ["items"])
    await session.commit()
    return order


async def with_pending_changes(session: AsyncSession) -> Order:
    order = await present(session)
    order.status = "mine"
    return order


async def partly_expired(session: AsyncSession) -> Order:
    order = await session.get_one(Order, 1)
    await session.commit()
    session.expire(order, ["note"])
    return order


async def beside_others(session: AsyncSession) -> Order:
    order = await present(session)
    session.add(Order(id=1_000))
    return order


PREPARATIONS = [
    absent,
    present,
    with_its_items,
    with_pending_changes,
    partly_expired,
    beside_others,
]


async def woken(
    watcher: RowWatcher, session: AsyncSession, prepare: Prepare, orders: AsyncEngine
) -> tuple[Any, Any, list[str]]:
    """What the session had and has, and what the engine sent after the change."""
    before = await prepare(session)
    wait = await armed_wait(watcher, session, Order, 1)
    with statements(orders) as sent:
        await execute(orders, update(Order).values(n=Order.n + 1, note="changed"))
        found = await wait
        return before, found, sent


def described(session: AsyncSession, order: Order) -> dict[str, Any]:
    """What the session and the ORM know of an order."""
    state = inspect(order)
    named = {attribute.key for attribute in state.attrs} - {"n"}
    return {
        "values": {name: value for name, value in state.dict.items() if name in named},
        "history": {name: state.attrs[name].history for name in named},
        "unloaded": state.unloaded,
        "is expired": state.expired,
        "modified": state.modified,
        "dirty": [type(one).__name__ for one in session.dirty],
        "new": [type(one).__name__ for one in session.new],
        "keys": set(session.sync_session.identity_map.keys()),
        "in transaction": session.in_transaction(),
        "persistent": state.persistent,
    }


@pytest.mark.parametrize("expire_on_commit", [True, False])
@pytest.mark.parametrize("prepare", PREPARATIONS)
async def test_the_result_is_that_of_a_select_and_no_select_is_sent(
    orders: AsyncEngine, watcher: RowWatcher, prepare: Prepare, expire_on_commit: bool
) -> None:
    """A listener for the session's statements makes it select: both results are equal."""
    described_by: list[dict[str, Any]] = []
    counts: list[int] = []
    for selects in (False, True):
        async with AsyncSession(orders, expire_on_commit=expire_on_commit) as session:
            if selects:
                event.listen(session.sync_session, "do_orm_execute", lambda _: None)
            before, found, sent = await woken(watcher, session, prepare, orders)
            assert before is None or found is before
            description = described(session, found)
            async with orders.connect() as connection:
                assert found.n == await connection.scalar(select(Order.n).where(Order.id == 1))
            assert found.note == "changed"
            described_by.append(description)
            counts.append(len([one for one in sent if one.startswith("SELECT")]))
            await session.rollback()
    assert described_by[0] == described_by[1]
    assert counts == [1, 2]


async def test_a_session_in_a_transaction_selects_the_row_that_it_has(
    orders: AsyncEngine, watcher: RowWatcher
) -> None:
    """The row may be its own version, which other connections do not see."""
    async with AsyncSession(orders) as session:
        order = await session.get_one(Order, 1)
        order.status = "mine"
        await session.flush()
        found = await wait_for_row_change(session, Order, 1, since={"status": "seen"}, timeout=10)
        assert (found, found.status) == (order, "mine")
    async with AsyncSession(orders) as session:
        order = await session.get_one(Order, 1)
        wait = await armed_wait(watcher, session, Order, 1)
        with statements(orders) as sent:
            await execute(orders, update(Order).values(note="changed"))
            assert (await wait) is order
        assert order.note == "changed"
        assert any(one.startswith("SELECT orders.id") for one in sent)


def _of_statements(session: AsyncSession) -> Any:
    return session.sync_session, "do_orm_execute"


def _of_the_beginning(session: AsyncSession) -> Any:
    return session.sync_session, "after_begin"


def _of_new_instances(session: AsyncSession) -> Any:
    return session.sync_session, "loaded_as_persistent"


def _of_loading(_: AsyncSession) -> Any:
    return Order, "load"


def _of_refreshing(_: AsyncSession) -> Any:
    return Order, "refresh"


@pytest.mark.parametrize("prepare", [absent, present])
@pytest.mark.parametrize(
    "listened",
    [_of_statements, _of_the_beginning, _of_new_instances, _of_loading, _of_refreshing],
)
async def test_a_listener_is_called_as_by_a_select(
    orders: AsyncEngine, watcher: RowWatcher, prepare: Prepare, listened: Any
) -> None:
    """Also one that was added during the wait."""
    called: list[object] = []

    def listener(*arguments: object) -> None:
        called.append(arguments[0])

    async with AsyncSession(orders) as session:
        before = await prepare(session)
        wait = await armed_wait(watcher, session, Order, 1)
        target, name = listened(session)
        event.listen(target, name, listener)
        try:
            await execute(orders, update(Order).values(note="changed"))
            found = await wait
        finally:
            event.remove(target, name, listener)
        assert found.note == "changed"
        # Nothing is refreshed if the session did not have the row, or new to it if it had.
        never = "refresh" if before is None else "loaded_as_persistent"
        assert bool(called) is (name != never)


async def test_a_row_that_the_session_deletes_is_still_deleted(
    orders: AsyncEngine, watcher: RowWatcher
) -> None:
    async with AsyncSession(orders) as session:
        order = await present(session)
        await session.delete(order)
        with session.no_autoflush:
            wait = await armed_wait(watcher, session, Order, 1)
            await execute(orders, update(Order).values(note="changed"))
            assert (await wait) is order
        assert order in session.deleted


@pytest.mark.parametrize("prepare", [absent, present])
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_session_with_one_snapshot_takes_it_with_the_row(
    orders: AsyncEngine, database: URL, prepare: Prepare, level: Any
) -> None:
    """Otherwise its later statements would not notice what was changed in between."""
    engine = create_async_engine(database, isolation_level=level)
    async with (
        RowWatcher(engine, mode="listen", recheck=None) as watcher,
        AsyncSession(engine) as session,
    ):
        await prepare(session)
        wait = await armed_wait(watcher, session, Order, 1)
        await execute(orders, update(Order).values(n=1))
        order = await wait
        await execute(orders, update(Order).values(n=Order.n + 100))
        order.n += 10
        with pytest.raises(DBAPIError, match="could not serialize"):
            await session.commit()
    await engine.dispose()


async def test_a_child_that_is_only_linked_is_not_added(
    orders: AsyncEngine, watcher: RowWatcher
) -> None:
    """A SELECT does not add it either."""
    async with AsyncSession(orders) as session:
        order = await present(session)
        item = Item(order=order)
        wait = await armed_wait(watcher, session, Order, 1)
        await execute(orders, update(Order).values(note="changed"))
        assert (await wait).note == "changed"
        assert item not in session


async def test_a_transaction_whose_beginning_the_engine_handles_selects(
    orders: AsyncEngine, watcher: RowWatcher
) -> None:
    """As where the engine sets the tenant's role at the beginning of each transaction."""
    begun: list[object] = []
    event.listen(orders.sync_engine, "begin", begun.append)
    async with AsyncSession(orders) as session:
        await present(session)
        wait = await armed_wait(watcher, session, Order, 1)
        with statements(orders) as sent:
            await execute(orders, update(Order).values(note="changed"))
            assert (await wait).note == "changed"
        assert any(one.startswith("SELECT orders.id") for one in sent)


async def test_an_expired_version_is_loaded_beside_a_pending_change(tasks: AsyncEngine) -> None:
    """So a change by another transaction after the wait is noticed."""
    async with (
        RowWatcher(tasks, mode="listen", recheck=None) as watcher,
        AsyncSession(tasks) as session,
    ):
        task = await session.get_one(Task, 1)
        await session.commit()
        task.tenant = "mine"
        wait = await armed_wait(watcher, session, Task, 1)
        await set_state(tasks, "changed")
        assert (await wait).state == "changed"
        assert task.version == 2
        await set_state(tasks, "again")
        with pytest.raises(StaleDataError):
            await session.commit()
