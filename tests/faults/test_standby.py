"""Standbys that listen, lag behind or are promoted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import ListenError, Reason, RowWatcher, WatcherState
from rowbell.embedded import EmbeddedServer
from support.catalogue import seen
from support.models import Order
from support.observed import execute
from support.orders import change
from support.proxy import proxy_to
from support.relays import leading
from support.servers import standby_of
from support.waits import IMPATIENT, armed_wait, polled_wait


@pytest.mark.fault("B15")
async def test_a_standby_is_polled_and_nothing_read_there_is_armed(
    primary: EmbeddedServer, primary_orders: AsyncEngine
) -> None:
    with standby_of(primary) as server:
        standby = create_async_engine(server.url)
        with pytest.raises(ListenError, match="in_recovery"):
            await RowWatcher(standby, mode="listen").__aenter__()
        # LISTEN on the primary does not help if reads are answered by the standby.
        cases: list[dict[str, Any]] = [{}, {"listen_url": primary.url}]
        for more in cases:
            async with RowWatcher(standby, timing=IMPATIENT, **more) as watcher:
                now = watcher.statistics()
                assert (now.state, now.reason) == (WatcherState.POLLING, Reason.IN_RECOVERY)
                wait = await polled_wait(watcher, interval=0.05)
                await change(primary_orders)
                await seen(wait)
        await standby.dispose()


@pytest.mark.fault("B15")
async def test_a_failover_under_a_wait_loses_no_change(
    primary: EmbeddedServer, primary_orders: AsyncEngine
) -> None:
    """The standby is promoted and gets the address, while the old primary is still running.

    Transaction IDs of the old primary mean nothing on the new one, so they are not trusted.
    """
    with standby_of(primary) as standby:
        async with proxy_to(primary.url) as proxy, proxy_to(primary.url) as listened:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            watching = RowWatcher(engine, listen_url=listened.url, recheck=0.1, timing=IMPATIENT)
            async with watching as watcher:
                wait = await armed_wait(watcher, interval=0.05)
                standby.promote()
                proxy.redirect(standby.url)
                await watcher.reached(lambda now: now.reason is Reason.NOT_DELIVERED)
                assert watcher.statistics().armed == 0
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 1
                # Now the listener connects to the new primary too.
                wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05))
                listened.redirect(standby.url)
                await watcher.reached(lambda now: now.armed == 1)
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 2


@pytest.mark.fault("B15")
async def test_a_read_of_another_primary_arms_nothing(
    primary: EmbeddedServer, primary_orders: AsyncEngine
) -> None:
    """Its snapshot is far above the boundary of the server that notifies, but proves nothing."""
    with standby_of(primary) as standby:
        standby.promote()
        await execute(standby.url, *["SELECT pg_current_xact_id()"] * 20)
        async with proxy_to(primary.url) as proxy:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            async with RowWatcher(engine, listen_url=primary.url, timing=IMPATIENT) as watcher:
                proxy.redirect(standby.url)
                wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05))
                armed = asyncio.create_task(watcher.reached(lambda now: now.armed == 1))
                await watcher.reached(lambda now: now.reason is Reason.NOT_DELIVERED)
                await execute(standby.url, "UPDATE orders SET n = n + 1")
                assert (await seen(wait)).n == 1
                assert not armed.done()
                armed.cancel()


async def test_a_relay_on_the_new_primary_is_not_relied_on_by_who_still_reads_the_old_one(
    primary: EmbeddedServer, primary_orders: AsyncEngine, tmp_path: Path
) -> None:
    """Both have the same tables with the same oids, and both accept writes."""
    with standby_of(primary) as standby:
        standby.promote()
        new = create_async_engine(standby.url)
        async with leading(new, tmp_path) as (relay, notifier):
            watching = RowWatcher(primary_orders, notifier=notifier, timing=IMPATIENT)
            async with watching as watcher:
                assert watcher.statistics().reason is Reason.NOT_DELIVERED
                wait = await polled_wait(watcher, interval=0.05)
                await change(primary_orders)
                await seen(wait)
                assert relay.status().rows == 0
        await new.dispose()


async def test_a_failover_under_a_relay_and_its_process_loses_no_change(
    primary: EmbeddedServer, primary_orders: AsyncEngine, tmp_path: Path
) -> None:
    with standby_of(primary) as standby:
        async with proxy_to(primary.url) as proxy:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            async with leading(engine, tmp_path) as (_, notifier):
                watching = RowWatcher(engine, notifier=notifier, timing=IMPATIENT, recheck=None)
                async with watching as watcher:
                    wait = await armed_wait(watcher, interval=0.05)
                    standby.promote()
                    proxy.redirect(standby.url)
                    await execute(standby.url, "UPDATE orders SET n = n + 1")
                    proxy.cut()
                    assert (await seen(wait)).n == 1
                    wait = await armed_wait(watcher)
                    await execute(standby.url, "UPDATE orders SET n = n + 1")
                    assert (await seen(wait)).n == 2


@pytest.mark.fault("B15")
async def test_a_standby_as_the_listener_of_a_primary_is_refused_and_polled(
    primary: EmbeddedServer, primary_orders: AsyncEngine
) -> None:
    with standby_of(primary) as standby:
        async with RowWatcher(primary_orders, listen_url=standby.url, timing=IMPATIENT) as watcher:
            assert watcher.statistics().reason is Reason.IN_RECOVERY
            wait = await polled_wait(watcher, interval=0.05)
            await change(primary_orders)
            await seen(wait)


@pytest.mark.fault("B16")
async def test_a_notification_whose_read_meets_a_standby_that_lags_is_not_forgotten(
    primary: EmbeddedServer, primary_orders: AsyncEngine
) -> None:
    """The standby shows the change a second after the notification. The interval is long."""
    with standby_of(primary, recovery_min_apply_delay="1s") as standby:
        async with proxy_to(primary.url) as proxy:
            engine = create_async_engine(proxy.url, poolclass=NullPool)
            watching = RowWatcher(engine, listen_url=primary.url, recheck=None, timing=IMPATIENT)
            async with watching as watcher:
                wait = await armed_wait(watcher)
                proxy.redirect(standby.url)
                await change(primary_orders)
                await watcher.reached(lambda now: now.polled == 1)
                assert (await seen(wait)).n == 1
