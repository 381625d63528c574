"""Other roles may forge notifications and call public functions. It costs little, hides nothing."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from support.orders import add_orders
from support.roles import connected, role
from support.waits import armed, armed_waits, notified


async def test_a_stranger_cannot_raise_its_own_limit_or_touch_what_others_registered(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database) as stranger,
        connected(stranger) as mallory,
        armed(orders) as (_, wait),
    ):
        for statement in (
            "INSERT INTO rowbell.registration_limit VALUES (session_user, 1000000)",
            "DELETE FROM rowbell.registration",
            "TRUNCATE rowbell.registration",
            "UPDATE rowbell.listener SET registrations = 0",
            "SELECT setval('rowbell.table_flags', 0)",
            "SELECT nextval('rowbell.listener_number')",
            "SELECT rowbell.compact()",
            "REFRESH MATERIALIZED VIEW rowbell.channel_secret",
            "DO $$ BEGIN LOCK TABLE rowbell.registration IN ROW EXCLUSIVE MODE; END $$",
            "CREATE FUNCTION rowbell.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await mallory.execute(statement)
        await mallory.execute(
            "SELECT rowbell.unregister(array_agg(table_oid), array_agg(key_hash))"
            " FROM rowbell.registration"
        )
        await mallory.execute(
            "SELECT rowbell.close_listener(), rowbell.delete_stale(), rowbell.lower_flags()"
        )
        async with connected(database) as owner:
            await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


@pytest.mark.fault("B8", "B28")
async def test_forged_notifications_cost_a_limited_number_of_reads_and_hide_nothing(
    orders: AsyncEngine, database: URL
) -> None:
    """They are broadcast, have another version, or come from the function for triggers."""
    rows = 3_000
    await add_orders(orders, 101, rows)
    oid = "'orders'::regclass::oid"
    async with (
        role(database) as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
        RowWatcher(orders, mode="listen", recheck=None) as watcher,
    ):
        waits = await armed_waits(watcher, range(1, rows + 1))
        before, sent = watcher.statistics(), 0
        begun = asyncio.get_running_loop().time()
        for forged in (
            "NOTIFY rowbell, '2:1:x'",
            f"SELECT pg_notify('rowbell', '1:' || {oid} || ':*')",
            (
                f"SELECT rowbell.notify({oid}, array_agg(listener), array_agg(key_hash))"
                " FROM rowbell.registration"
            ),
        ):
            for _ in range(20):
                await mallory.execute(forged)
                sent += 1
                await watcher.reached(notified(before.notifications + sent - 1))
        lasted = asyncio.get_running_loop().time() - begun
        # Each one alone would cause a read of all rows. After the first, the rate is limited.
        reads = watcher.statistics().rereads - before.rereads
        assert reads <= 3 * rows + 12_000 * (lasted + 1)
        await owner.execute("UPDATE orders SET n = 1 WHERE id = 5")
        assert (await waits[4]).n == 1
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


async def test_a_counter_that_anybody_may_raise_costs_one_proof_a_heartbeat(
    orders: AsyncEngine, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        role(database) as stranger,
        connected(stranger) as mallory,
        armed(orders) as (watcher, wait),
    ):
        for _ in range(50):
            await mallory.fetch("SELECT nextval('rowbell.unsent_notifications')")
        await watcher.reached(lambda now: now.polled == 1)
        await watcher.reached(lambda now: now.armed == 1)
        async with connected(database) as owner:
            await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1
    proven = [r for r in caplog.records if "proven anew" in r.getMessage()]
    assert 1 <= len(proven) <= 5
