"""LISTEN is refused, or it succeeds and nothing arrives. The waits are polled."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import ListenError, Reason, RowWatcher
from support.catalogue import seen
from support.observed import listeners
from support.orders import change, changed
from support.proxy import Proxy, error
from support.waits import IMPATIENT, POLLING, armed_on, polled_wait


@pytest.mark.fault("B13")
async def test_a_pooler_that_delivers_nothing_is_found_out(
    orders: AsyncEngine, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """LISTEN succeeds, but nothing arrives: polled, with one warning that names the remedy."""
    proxy.deaf = True
    async with RowWatcher(orders, listen_url=proxy.url, timing=IMPATIENT) as watcher:
        now = watcher.statistics()
        assert (now.state, now.reason) == (POLLING, Reason.NOT_DELIVERED)
        wait = await polled_wait(watcher, interval=0.02)
        await change(orders)
        assert (await seen(wait)).n == 1
        await proxy.has_accepted(proxy.accepted + 1)  # LISTEN is tried again
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "listen_url" in warnings[0].getMessage()


@pytest.mark.fault("B13")
async def test_listen_mode_raises_where_nothing_is_delivered(
    orders: AsyncEngine, proxy: Proxy
) -> None:
    proxy.deaf = True
    with pytest.raises(ListenError, match="not_delivered"):
        await RowWatcher(orders, mode="listen", listen_url=proxy.url, timing=IMPATIENT).__aenter__()
    assert await listeners(orders) == []


@pytest.mark.fault("B18")
@pytest.mark.parametrize("sqlstate", ["0A000", "42601"])
async def test_a_server_that_refuses_listen_is_polled_and_not_asked_again(
    orders: AsyncEngine, database: URL, proxy: Proxy, sqlstate: str
) -> None:
    """CockroachDB and others refuse LISTEN permanently."""
    proxy.refused_query, proxy.instead = b"LISTEN", error(sqlstate, "LISTEN is not supported")
    async with RowWatcher(orders, listen_url=proxy.url, timing=IMPATIENT) as watcher:
        now = watcher.statistics()
        assert (now.state, now.reason) == (POLLING, Reason.UNSUPPORTED)
        accepted = proxy.accepted
        wait = await polled_wait(watcher, interval=0.05)
        await changed(wait, database)
        assert proxy.accepted == accepted
    with pytest.raises(ListenError, match="unsupported"):
        await RowWatcher(orders, mode="listen", listen_url=proxy.url, timing=IMPATIENT).__aenter__()


@pytest.mark.fault("B14")
@pytest.mark.parametrize("cached", [True, False], ids=["prepared", "unprepared"])
async def test_another_server_process_behind_the_same_connection_is_found_out(
    orders: AsyncEngine, database: URL, proxy: Proxy, cached: bool
) -> None:
    """A pooler swaps it after the check of LISTEN. No notification would arrive any more."""
    # With a statement cache, the new backend would not have the prepared statements.
    none = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    engine = create_async_engine(proxy.url, poolclass=NullPool, connect_args={} if cached else none)
    timing = replace(IMPATIENT, backoff=60.0, backoff_limit=60.0)
    watching = RowWatcher(engine, recheck=None, timing=timing)
    async with armed_on(watching, interval=0.05) as (watcher, wait):
        await proxy.swap()
        await watcher.reached(lambda now: now.state is POLLING)
        assert watcher.statistics().reason is Reason.NOT_DELIVERED
        await changed(wait, database)
