"""Whom a relay serves with what: the rights of roles, and what strangers may try."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import Reason, Timing
from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell.relay import Relay
from support.models import Order
from support.observed import execute
from support.paths import names_in
from support.relays import Notes, leading, leads
from support.roles import connected, role
from support.versions import Brief, Narrow
from support.waits import (
    HOUR,
    armed_wait,
)

from .conftest import Watched


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


async def test_a_role_that_may_not_relay_is_told_so(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    async with role(database) as stranger:
        engine = create_async_engine(stranger)
        async with Relay(engine, socket=tmp_path / "relay") as relay:
            await relay.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
            assert "lead" in relay.status().detail
        await engine.dispose()
