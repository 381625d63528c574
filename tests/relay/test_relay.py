"""A relay on a real server: whom it serves, with what, and as whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import Reason, RowWatcher, Timing, install_triggers
from rowbell.errors import InvalidArgumentError, ListenError
from rowbell.relay import Relay, SocketNotifier
from support.models import Item, Order
from support.observed import execute
from support.orders import add_orders
from support.paths import names_in
from support.relays import ELECTED, leading, relayed
from support.roles import connected
from support.versions import Brief, Inserted
from support.waits import (
    HOUR,
    POLLING,
    armed_wait,
    armed_waits,
    polled_because,
    run,
)

from .conftest import Watched


async def test_one_connection_listens_for_any_number_of_processes(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    async with leading(orders, tmp_path) as (relay, notifier), connected(database) as owner:
        watchers = [await processes(database, notifier) for _ in range(8)]
        waits = [wait for w in watchers for wait in await armed_waits(w, range(1, 22))]
        assert relay.status().sessions == 8
        assert relay.status().rows == 21  # each is registered once
        listening = await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'rowbell%'"
        )
        assert listening == 1
        assert await owner.fetchval("SELECT count(*) FROM rowbell.registration") == 21
        await owner.execute("UPDATE orders SET n = 1")
        assert {order.n for order in await asyncio.gather(*waits)} == {1}


async def test_requests_that_arrive_together_share_the_statements(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """The LISTEN connection does not have a statement for each process."""
    sent: list[str] = []

    async def connect() -> asyncpg.Connection[Any]:
        made = await asyncpg.connect(database.set(drivername="postgresql").render_as_string())
        made.add_query_logger(lambda record: sent.append(record.query))
        return made

    async with leading(orders, tmp_path, listen_connect=connect) as (relay, notifier):
        watchers = [await processes(database, notifier) for _ in range(20)]
        waits = [asyncio.create_task(w.wait_for_change(Order, 1, interval=HOUR)) for w in watchers]
        before = len(sent)
        for watcher in watchers:
            await watcher.reached(lambda now: now.armed == 1)
        registers = [query for query in sent[before:] if "rowbell.register" in query]
        assert 1 <= len(registers) < 15
        del sent[:]
        await execute(database, "UPDATE orders SET n = 1")
        await asyncio.gather(*waits)
        assert not [query for query in sent if "beat" not in query and "register" in query]
        await relay.reached(lambda now: now.sessions == 20)


async def test_a_table_that_a_migration_has_locked_keeps_no_other_table_from_being_armed(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    timing = Timing(heartbeat=0.2, narrow=0.2)
    async with (
        leading(orders, tmp_path, timing=timing) as (relay, notifier),
        connected(database) as migration,
    ):
        locked, free = [await processes(database, notifier, timing=timing) for _ in range(2)]
        await execute(database, "INSERT INTO items (id, order_id, name) VALUES (1, 1, '')")
        waiting = await armed_wait(locked, Item, 1)
        term = relay.status().term
        async with migration.transaction():
            await migration.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            for key in (1, 2):
                wait = await armed_wait(free, Order, key)
                await execute(database, f"UPDATE orders SET n = 1 WHERE id = {key}")
                assert (await asyncio.wait_for(wait, 10)).n == 1
        await locked.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE items SET name = 'new'")
        assert (await asyncio.wait_for(waiting, 10)).name == "new"
        assert relay.status().term == term


async def test_a_column_that_had_another_name_for_a_moment_costs_no_change(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """Meanwhile another process has registered the row."""
    async with leading(orders, tmp_path) as (_, notifier):
        one, two = [await processes(database, notifier) for _ in range(2)]
        wait = await armed_wait(one, Order, 1, columns=["note"])
        await execute(database, "ALTER TABLE orders RENAME COLUMN note TO remark")
        other = await armed_wait(two, Brief, 1, columns=["status"])
        await execute(database, "ALTER TABLE orders RENAME COLUMN remark TO note")
        await one.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET note = 'new' WHERE id = 1")
        assert (await asyncio.wait_for(wait, 10)).note == "new"
        other.cancel()
        await asyncio.wait([other])


@pytest.mark.parametrize("moment", ["dropped", "renamed"])
async def test_a_column_of_one_process_that_is_gone_costs_no_other_process_a_change(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched, moment: str
) -> None:
    """An old version of the application still watches it, and shares the row."""
    async with leading(orders, tmp_path) as (_, notifier):
        old, new = [await processes(database, notifier) for _ in range(2)]
        gone = await armed_wait(old, Order, 1, columns=["note", "n"])
        change = "DROP COLUMN note" if moment == "dropped" else "RENAME COLUMN note TO remark"
        await execute(database, f"ALTER TABLE orders {change}")
        wait = await armed_wait(new, Brief, 1, columns=["status"])
        await execute(database, "UPDATE orders SET status = 'paid' WHERE id = 1")
        assert (await asyncio.wait_for(wait, 10)).status == "paid"
        gone.cancel()
        await asyncio.wait([gone])


async def test_a_row_that_is_registered_already_is_registered_again_for_each_process(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """The relay's memory is no registration: somebody may have deleted it a moment ago."""
    timing = Timing(heartbeat=3600)  # so that nothing else finds out
    async with leading(orders, tmp_path, timing=timing) as (_, notifier):
        first, second = [await processes(database, notifier, timing=timing) for _ in range(2)]
        before = await armed_wait(first)
        await execute(database, "DELETE FROM rowbell.registration")
        wait = await armed_wait(second)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        assert (await asyncio.wait_for(wait, 10)).n == 1
        before.cancel()
        await asyncio.wait([before])


async def test_two_versions_of_an_application_have_each_what_suits_it(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """One declares inserts, for which the table's triggers do not fire. The other does not."""
    async with leading(orders, tmp_path) as (_, notifier):
        old, new = [await processes(database, notifier) for _ in range(2)]
        with_inserts = await polled_because(new, Reason.TRIGGER_MISSING, Inserted, 1)
        wait = await armed_wait(old)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        assert (await asyncio.wait_for(wait, 10)).n == 1
        assert (await with_inserts).id == 1  # polled, and right


async def test_a_relay_that_serves_a_clone_of_the_database_notifies_of_nothing(
    orders: AsyncEngine, database: URL, server: URL, tmp_path: Path, processes: Watched
) -> None:
    """Tables have the same oids there. The process finds out before it relies on it."""
    await orders.dispose()
    name = f"{database.database}_clone"
    await execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{database.database}"')
    clone = create_async_engine(database.set(database=name))
    try:
        async with leading(clone, tmp_path) as (relay, notifier):
            watcher = await processes(database, notifier, timing=Timing(proof=0.3))
            now = watcher.statistics()
            assert (now.state, now.reason) == (POLLING, Reason.NOT_DELIVERED)
            assert "another database" in now.detail
            assert relay.status().rows == 0
    finally:
        await clone.dispose()
        await execute(server, f'DROP DATABASE "{name}"')


async def test_a_watcher_that_must_listen_says_why_it_cannot(
    orders: AsyncEngine, tmp_path: Path
) -> None:
    notifier = SocketNotifier(tmp_path / "nothing")
    with pytest.raises(ListenError, match="No such file"):
        async with RowWatcher(orders, mode="listen", notifier=notifier):
            pass
    with pytest.raises(InvalidArgumentError, match="listen_url"):
        RowWatcher(orders, notifier=notifier, listen_url="postgresql://x")
    with pytest.raises(InvalidArgumentError, match="SocketNotifier"):
        RowWatcher(orders, notifier="nats://host")  # type: ignore[arg-type]


async def test_tables_whose_triggers_go_and_come_are_polled_and_armed_again(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    async with relayed(orders, tmp_path) as (_, watcher):
        [wait] = await armed_waits(watcher, [1])
        await execute(database, "DROP TRIGGER rowbell_update ON orders")
        await execute(database, "NOTIFY rowbell, '1:0:?'")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        await run(orders, install_triggers, Order)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_many_rows_are_registered_in_several_messages(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    await add_orders(orders, 101, 5_000)
    async with relayed(orders, tmp_path) as (relay, watcher):
        waits = await armed_waits(watcher, range(1, 5_001))
        assert relay.status().rows == 5_000
        await execute(database, "UPDATE orders SET n = 1")
        assert {order.n for order in await asyncio.gather(*waits)} == {1}


async def test_nothing_is_left_behind(orders: AsyncEngine, database: URL, tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with relayed(orders, tmp_path) as (relay, watcher):
        [wait] = await armed_waits(watcher, [1])
        wait.cancel()
        await asyncio.wait([wait])
        await watcher.aclose()
        await relay.reached(lambda now: now.sessions == 0 and now.rows == 0)
    assert asyncio.all_tasks() == before
    assert not names_in(tmp_path)
    async with connected(database) as owner:
        async with asyncio.timeout(10):
            while await owner.fetchval(ELECTED):  # the server process ends after its connection
                await asyncio.sleep(0.02)
        left = "SELECT (SELECT count(*) FROM rowbell.registration), last_value FROM {}.table_flags"
        assert tuple(await owner.fetchrow(left.format("rowbell")) or ()) == (0, 0)


def test_arguments_of_a_relay_are_checked_at_the_call(orders_engine: AsyncEngine) -> None:
    invalid: list[dict[str, Any]] = [
        {},
        {"socket": "a", "nats": "nats://localhost"},
        {"socket": ""},
        {"socket": "x" * 200},
        {"nats": "http://localhost"},
        {"nats": "nats://db.example.com"},
        {"socket": "a", "reads_per_second": 0},
    ]
    for arguments in invalid:
        with pytest.raises(InvalidArgumentError):
            Relay(orders_engine, **arguments)


@pytest.fixture
def orders_engine(database: URL) -> AsyncEngine:
    return create_async_engine(database)
