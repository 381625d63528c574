"""What the waits of a process see while its relay, or its database, cannot be relied on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import Reason, Resync, ResyncReason, Timing
from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell.relay import Relay, RelayState, SocketNotifier
from support.lists import created, listed
from support.models import Item, Order
from support.observed import execute, kill_listener
from support.proxy import Proxy
from support.relays import ELECTED, Notes, leading, leads, relay_program, relayed
from support.roles import connected, role
from support.waits import LISTENING, POLLING, QUICK, armed_wait, armed_waits

from .conftest import Watched


async def test_a_relay_that_is_lost_is_polled_for_and_its_successor_arms_again(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    async with leading(orders, tmp_path) as (first, notifier):
        watcher = await processes(database, notifier, mode="auto")
        waits = await armed_waits(watcher, [1], interval=0.05)
        async with Relay(orders, socket=tmp_path / "relay") as second:
            await second.reached(lambda now: now.state is RelayState.STANDING_BY)
            await first.aclose()
            await watcher.reached(lambda now: now.state is POLLING)
            await second.reached(leads)
            await watcher.reached(lambda now: now.armed == 1)
            assert second.status().term > first.status().term
            await execute(database, "UPDATE orders SET n = 1")
            assert (await waits[0]).n == 1


async def test_a_change_while_no_relay_leads_is_found_by_polling(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    async with leading(orders, tmp_path) as (relay, notifier):
        watcher = await processes(database, notifier)
        [wait] = await armed_waits(watcher, [1], interval=0.05)
        await relay.aclose()
        await watcher.reached(lambda now: now.state is POLLING)
        assert watcher.statistics().reason is Reason.CONNECTION_LOST
        await execute(database, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_a_watcher_starts_before_its_relay(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    watcher = await processes(database, SocketNotifier(tmp_path / "relay"), timing=QUICK)
    assert watcher.statistics().reason is Reason.CONNECTION_LOST
    async with leading(orders, tmp_path):
        await watcher.reached(lambda now: now.state is LISTENING)


async def test_a_relay_whose_connection_is_lost_leads_again_in_a_new_term(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    timing = Timing(backoff=0.05)
    async with relayed(orders, tmp_path, timing=timing) as (relay, watcher):
        [wait] = await armed_waits(watcher, [1])
        term = relay.status().term
        await kill_listener(orders)
        await relay.reached(lambda now: now.term > term and now.sessions == 1)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_notifications_that_were_not_sent_are_a_gap_within_two_seconds(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    async with relayed(orders, tmp_path) as (relay, watcher):
        [wait] = await armed_waits(watcher, [1])
        async with connected(database) as writer, writer.transaction():
            await writer.execute("SET LOCAL rowbell.notify = off")
            await writer.execute("UPDATE orders SET n = 1")
        assert (await asyncio.wait_for(wait, 10)).n == 1
        assert relay.status().gaps == {"not sent": 1}


async def test_a_lock_that_a_stranger_holds_is_named(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    async with role(database) as stranger, connected(stranger) as mallory:
        key = "hashtextextended('rowbell relay ' || 'shop', 0)"
        await mallory.execute(f"SELECT pg_advisory_lock({key})")
        async with Relay(orders, socket=tmp_path / "relay", name="shop") as relay:
            await relay.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
            detail = relay.status().detail
            assert f"process {mallory.get_server_pid()} of role '{stranger.username}'" in detail
            async with connected(database) as owner:
                waiting = await owner.fetchval(
                    "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
                    " WHERE NOT l.granted AND a.datname = current_database()"
                )
            assert waiting == 0
            await mallory.execute(f"SELECT pg_advisory_unlock({key})")
            await relay.reached(leads)


async def note(changes: AsyncIterator[Resync], told: list[ResyncReason]) -> None:
    async for resync in changes:
        told.append(resync.reason)  # noqa: PERF401  # it is looked at while it grows


async def test_absent_rows_and_lists_are_seen_while_a_relay_is_replaced(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """What waits for a row to appear, and a loop over ``changes()``, hear of what they missed."""
    entry = await created(orders, listed())
    async with leading(orders, tmp_path) as (first, notifier):
        watcher = await processes(database, notifier)
        absent = [
            asyncio.create_task(watcher.wait_for_change(entry, key, missing="wait", interval=0.1))
            for key in (7, 8)
        ]
        told: list[ResyncReason] = []
        watching = asyncio.create_task(note(watcher.changes(entry, interval=0.1), told))
        await watcher.reached(lambda now: now.armed == 3)
        await first.aclose()
        await watcher.reached(lambda now: now.state is POLLING)
        before = len(told)
        await execute(database, "INSERT INTO entries VALUES (7, 1)")
        assert (await asyncio.wait_for(absent[0], 10)).n == 1
        await watcher.reached(lambda _: len(told) > before)
        async with leading(orders, tmp_path):
            await watcher.reached(lambda now: now.armed == 2)
            before = len(told)
            await execute(database, "INSERT INTO entries VALUES (8, 2)")
            assert (await asyncio.wait_for(absent[1], 10)).n == 2
            await watcher.reached(lambda _: ResyncReason.CHANGED in told[before:])
            watching.cancel()
            await asyncio.wait([watching])


async def test_a_leader_that_is_stopped_while_its_server_sends_to_it_is_replaced(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """The server process waits to send, so it is not idle, and no timeout ends its session."""
    path = tmp_path / "relay"
    async with relay_program(database, "--socket", str(path)) as leader:
        await leader.said("leading")
        watcher = await processes(database, SocketNotifier(path))
        [wait] = await armed_waits(watcher, [1])
        async with Relay(orders, socket=path) as stand_by, connected(database) as superuser:
            await stand_by.reached(lambda now: now.state is RelayState.STANDING_BY)
            stranger = RelayedNotifier(SocketNotifier(path), Connections(orders), Timing())
            async with stranger.session(Notes()) as session:
                leader.stop()
                await superuser.execute(
                    "SELECT pg_notify($1, repeat('x', 7000) || i)"
                    " FROM generate_series(1, 500) AS i",
                    session._channel,
                )
            pid = await superuser.fetchval(ELECTED)
            waits_for = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"
            async with asyncio.timeout(10):
                while await superuser.fetchval(waits_for, pid) != "ClientWrite":
                    await asyncio.sleep(0.02)
            await stand_by.reached(leads)
            assert await superuser.fetchval(waits_for, pid) is None  # it was ended
            await watcher.reached(lambda now: now.armed == 1)
            leader.go_on()
            await leader.said("standing by")
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await asyncio.wait_for(wait, 10)).n == 1


async def test_a_database_that_does_not_answer_a_process_is_polled_and_then_relied_on_again(
    orders: AsyncEngine, proxy: Proxy, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """The process cannot introduce itself: it gives up after the time for an answer."""
    timing = Timing(answer=0.3, backoff=0.05, backoff_limit=0.1, connect=0.5)
    async with leading(orders, tmp_path) as (relay, notifier):
        proxy.stall()
        watcher = await processes(proxy.url, notifier, timing=timing)
        assert watcher.statistics().state is POLLING
        assert "Timeout" in watcher.statistics().detail
        await relay.reached(lambda now: now.sessions == 0)  # nothing of it stays there
        proxy.resume()
        await watcher.reached(lambda now: now.state is LISTENING)
        [wait] = await armed_waits(watcher, [1])
        await execute(database, "UPDATE orders SET n = 1")
        assert (await asyncio.wait_for(wait, 10)).n == 1


async def test_a_database_that_does_not_answer_while_a_wait_begins_costs_no_other_wait_a_change(
    orders: AsyncEngine, proxy: Proxy, database: URL, tmp_path: Path, processes: Watched
) -> None:
    timing = Timing(answer=0.3, backoff=0.05, backoff_limit=0.1, connect=0.5)
    async with leading(orders, tmp_path) as (_, notifier):
        watcher = await processes(proxy.url, notifier, timing=timing)
        await execute(database, "INSERT INTO items VALUES (1, 1, 'pen')")
        before = await armed_wait(watcher, Order, 1)
        proxy.stall()
        during = asyncio.create_task(watcher.wait_for_change(Item, 1, interval=0.1))
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        await watcher.reached(lambda now: now.notifications > 0 or now.state is POLLING)
        proxy.resume()
        assert (await asyncio.wait_for(before, 10)).n == 1
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE items SET name = 'ink' WHERE id = 1")
        assert (await asyncio.wait_for(during, 10)).name == "ink"
