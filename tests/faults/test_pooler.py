"""A real PgBouncer between the watcher and the server."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import (
    Reason,
    RowWatcher,
    Timing,
    WatcherState,
    WatcherStatistics,
    advisory_lock,
    lock_rows,
    wait_for_row_change,
)
from support.catalogue import due, seen
from support.models import Order
from support.observed import execute
from support.pgbouncer import pgbouncer

pytestmark = pytest.mark.skipif(
    shutil.which("pgbouncer") is None and "CI" not in os.environ,
    reason="needs pgbouncer; test_not_delivered.py has a proxy that behaves like one",
)


@pytest.mark.fault("B13")
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pooler_is_listened_through_only_where_it_delivers(
    orders: AsyncEngine,
    database: URL,
    tmp_path: Path,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Session mode delivers. In transaction mode LISTEN succeeds, but the wait is polled."""
    async with pgbouncer(database, tmp_path, mode) as url:
        timing = Timing(proof=2, backoff=60, backoff_limit=60)
        async with RowWatcher(orders, listen_url=url, timing=timing) as watcher:
            now = watcher.statistics()
            if mode == "session":
                assert now.state is WatcherState.LISTENING
                interval = 60.0
            else:
                assert (now.state, now.reason) == (WatcherState.POLLING, Reason.NOT_DELIVERED)
                interval = 0.02
            wait = asyncio.create_task(
                watcher.wait_for_change(Order, 1, interval=interval, timeout=20)
            )
            await watcher.reached(lambda now: now.armed == 1 if interval > 1 else now.queries > 0)
            await execute(orders, update(Order).values(n=1))
            due()
            assert (await seen(wait)).n == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == (mode == "transaction")
    assert all("listen_url" in warning for warning in warnings)


def _is_served(reads: int, now: WatcherStatistics, *, armed: bool) -> bool:
    return now.armed == 1 if armed else now.queries > reads


@pytest.mark.fault("B13")
@pytest.mark.parametrize("listens", ["directly", "through it too"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_an_application_works_through_a_pooler_alone(
    orders: AsyncEngine, database: URL, tmp_path: Path, mode: str, listens: str
) -> None:
    """Reads, sessions and locks go through the pooler. Only LISTEN needs a direct connection."""
    async with pgbouncer(database, tmp_path, mode) as url:
        # SQLAlchemy's advice for PgBouncer: unnamed prepared statements, and no second pool.
        unnamed = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        pooled = create_async_engine(
            url,
            poolclass=NullPool,
            connect_args={**unnamed, "prepared_statement_name_func": lambda: f"s{uuid4()}"},
        )
        directly = database if listens == "directly" else None
        woken = mode == "session" or listens == "directly"
        timing = Timing(proof=1, backoff=60, backoff_limit=60)
        async with RowWatcher(pooled, listen_url=directly, timing=timing) as watcher:
            assert (watcher.statistics().state is WatcherState.LISTENING) is woken
            for n in range(3):
                async with AsyncSession(pooled) as session:
                    wait = asyncio.create_task(
                        wait_for_row_change(
                            session,
                            Order,
                            1,
                            since={"n": n},
                            interval=60 if woken else 0.02,
                            timeout=20,
                        )
                    )
                    reads = watcher.statistics().queries
                    await watcher.reached(partial(_is_served, reads, armed=woken))
                    async with (
                        AsyncSession(pooled) as writer,
                        writer.begin(),
                        advisory_lock(writer, "order 1", transaction=True),
                    ):
                        [order] = await lock_rows(writer, Order, [1], timeout=2)
                        order.n += 1
                    due()
                    assert (await seen(wait)).n == n + 1
        await pooled.dispose()
