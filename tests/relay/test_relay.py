"""A relay on a real server: whom it serves, with what, and as whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, Column, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import Reason, RowWatcher, Timing, install_triggers
from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell.errors import InvalidArgumentError, ListenError
from rowbell.relay import Relay, SocketNotifier
from support.models import Item, Order
from support.observed import execute
from support.orders import add_orders
from support.relays import ELECTED, Notes, leading, leads, relayed
from support.roles import connected, role
from support.waits import (
    HOUR,
    POLLING,
    armed_wait,
    armed_waits,
    polled_because,
    run,
)

from .conftest import Watched


class Apart(DeclarativeBase):
    """Models of another version of the application."""


class Brief(Apart):
    """An order, for a process that knows, or may select, two of its columns."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class Narrow(Apart):
    """The same, with another column."""

    __table__ = Table(
        "orders", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
    )


@rowbell.watched(inserts=True)
class Inserted(Apart):
    """The same, for a process that is told of inserts."""

    __table__ = Table(
        "orders", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
    )


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


async def test_a_process_is_told_of_what_its_own_role_may_select(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """Also if a process of another role watches other columns of the same row."""
    async with (
        role(database, "GRANT SELECT (id, status) ON orders TO {role}") as low,
        role(database, "GRANT SELECT ON orders TO {role}") as high,
        role(
            database,
            "GRANT EXECUTE ON FUNCTION rowbell.lead(text), rowbell.admit(text[]) TO {role}",
        ) as nobody,
    ):
        engine = create_async_engine(nobody)
        async with leading(engine, tmp_path) as (relay, notifier), connected(database) as owner:
            two = await processes(high, notifier)
            wait = await armed_wait(two, Order, 1, columns=["n"])
            one = await processes(low, notifier)
            status = await armed_wait(one, Brief, 1, columns=["status"])
            heard = one.statistics().notifications
            await owner.execute("UPDATE orders SET n = 1 WHERE id = 1")
            assert (await wait).n == 1
            await relay.reached(lambda now: now.held == 0)
            assert one.statistics().notifications == heard
            await owner.execute("UPDATE orders SET status = 'paid' WHERE id = 1")
            assert (await status).status == "paid"
            roles = await owner.fetch(
                "SELECT DISTINCT r.rolname FROM rowbell.listener AS l"
                " JOIN pg_roles AS r ON r.oid = l.role_oid"
            )
            assert {row[0] for row in roles} == {low.username, high.username}
        await engine.dispose()


async def test_a_right_that_is_revoked_ends_the_waits_of_that_role_only(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    grant = "GRANT SELECT ON orders TO {role}"
    async with role(database, grant) as one, role(database, grant) as two:
        timing = Timing(heartbeat=0.2, narrow=0.2)
        async with leading(orders, tmp_path, timing=timing) as (_, notifier):
            losing = await processes(one, notifier, timing=timing)
            staying = await processes(two, notifier, timing=timing)
            lost, kept = await armed_wait(losing), await armed_wait(staying)
            await execute(database, f"REVOKE SELECT ON orders FROM {one.username}")
            await losing.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
            assert staying.statistics().armed == 1
            await execute(database, "UPDATE orders SET n = 1")
            assert (await kept).n == 1
            lost.cancel()
            await asyncio.wait([lost])


async def test_a_right_that_was_gone_for_a_moment_costs_no_change(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """Meanwhile another process has registered the row, without that column."""
    granted = "GRANT SELECT (id, status, n) ON orders TO {role}"
    async with role(database, granted) as app, leading(orders, tmp_path) as (_, notifier):
        other, owner_of_n = [await processes(app, notifier) for _ in range(2)]
        wait = await armed_wait(owner_of_n, Narrow, 1, columns=["n"])
        await execute(database, f"REVOKE SELECT (n) ON orders FROM {app.username}")
        first = await armed_wait(other, Brief, 1, columns=["status"])
        await execute(database, f"GRANT SELECT (n) ON orders TO {app.username}")
        await execute(database, "NOTIFY rowbell, '1:0:?'")
        second = await armed_wait(other, Brief, 1, columns=["status"])
        await owner_of_n.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        assert (await asyncio.wait_for(wait, 20)).n == 1
        for each in (first, second):
            each.cancel()
        await asyncio.wait([first, second])


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


async def test_a_boundary_of_the_future_keeps_nobody_from_being_armed(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """It is asked about together with those of the others."""
    async with leading(orders, tmp_path) as (_, notifier):
        watcher = await processes(database, notifier, timing=Timing(narrow=0.1))
        async with connected(database) as old, old.transaction():
            await old.execute("SELECT pg_current_xact_id()")  # only the lock table proves now
            stranger = RelayedNotifier(notifier, Connections(orders), Timing())
            async with stranger.session(Notes()) as session, connected(database) as writer:
                oid = await writer.fetchval("SELECT 'orders'::regclass::oid")

                async def ask() -> None:
                    while True:
                        await session.tables_without_writers([oid], 2**62)

                asking = asyncio.create_task(ask())
                wait = await armed_wait(watcher)
                asking.cancel()
                await asyncio.wait([asking])
                await writer.execute("UPDATE orders SET n = 1 WHERE id = 1")
                assert (await wait).n == 1


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


async def test_a_ticket_that_somebody_forges_ends_no_session(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """Whoever may connect to the relay gets to know its channel, and from it public IDs."""
    tickets: list[str] = []
    async with leading(orders, tmp_path) as (relay, notifier), connected(database) as mallory:
        stranger = RelayedNotifier(notifier, Connections(orders), Timing())
        async with stranger.session(Notes()) as session:
            channel = session._channel
            await mallory.add_listener(channel, lambda *event: tickets.append(str(event[3])))
            victim = await processes(database, notifier)
            wait = await armed_wait(victim)
            await mallory.execute("SELECT 1")
            [ticket] = tickets
            role_oid, expires, public, _ = ticket.split(":")
            for forged in (f"{role_oid}:{expires}:{public}:{'0' * 64}", f"10:1:{public}:x"):
                await mallory.execute("SELECT pg_notify($1, $2)", channel, forged)
            await relay.reached(lambda now: now.held == 0)
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await asyncio.wait_for(wait, 10)).n == 1
            assert victim.statistics().reconnects == 0


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


async def test_too_many_rows_of_one_process_do_not_refuse_those_of_another(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    async with role(database, "GRANT SELECT ON orders TO {role}") as app:
        await execute(
            database, f"INSERT INTO rowbell.registration_limit VALUES ('{app.username}', 50)"
        )
        async with leading(orders, tmp_path) as (_, notifier):
            greedy, modest = [await processes(app, notifier) for _ in range(2)]
            waits = [
                asyncio.create_task(greedy.wait_for_change(Order, key, interval=HOUR))
                for key in range(11, 71)
            ]
            await greedy.reached(lambda now: now.reason is Reason.TOO_MANY_REGISTRATIONS)
            wait = await armed_wait(modest)
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await wait).n == 1
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)


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


async def test_the_rights_on_the_socket_are_those_that_were_asked_for(
    orders: AsyncEngine, tmp_path: Path
) -> None:
    path = tmp_path / "relay"
    async with Relay(orders, socket=path, socket_mode=0o600) as relay:
        await relay.reached(leads)
        assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("a file of somebody")
    async with Relay(orders, socket=path) as relay:
        await relay.reached(lambda now: "not a socket" in now.detail)
    assert path.read_text() == "a file of somebody"
    assert names_in(tmp_path) == ["relay"]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


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
