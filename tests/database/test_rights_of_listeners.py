"""What a role may listen for and register, and what it can learn."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy import URL, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

import rowbell
from rowbell import Reason, RowWatcher, TriggerState, install_triggers
from support.models import Order
from support.roles import connected, register, role
from support.waits import HOUR, QUICK, armed, armed_waits, polled_because, run, state_of


async def test_nobody_else_learns_a_listeners_channel(orders: AsyncEngine, database: URL) -> None:
    """A process ID, a listener of one's own, or default privileges do not reveal it."""
    async with connected(database) as owner:
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        async with role(
            database,
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}",
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {role}",
        ) as stranger:
            await run(orders, install_triggers, Order)
            async with connected(stranger) as mallory, armed(orders) as (_, wait):
                for query in (
                    "SELECT * FROM rowbell.channel_secret",
                    "SELECT rowbell.channel(1)",
                ):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await mallory.execute(query)
                heard: list[object] = []

                def receive(*notification: object) -> None:
                    heard.append(notification[3])

                numbers = await mallory.fetch("SELECT number, backend_pid FROM rowbell.listener")
                own = await mallory.fetchval("SELECT channel FROM rowbell.open_listener()")
                for guess in (
                    "rowbell",
                    own,
                    *(f"rowbell_{value}" for row in numbers for value in row.values()),
                ):
                    await mallory.add_listener(guess, receive)
                await owner.execute("UPDATE orders SET n = 1")
                assert (await wait).n == 1
                await mallory.fetch("SELECT 1")
                assert heard == []


async def test_rows_and_columns_that_a_role_may_not_select_cannot_be_registered(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, "GRANT SELECT (id, status) ON orders TO {role}") as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
    ):
        await mallory.execute("SELECT rowbell.open_listener()")
        assert await register(mallory, "orders", 7, columns="{n}") == "not_permitted"
        await register(mallory, "orders", 7, columns="{nonesuch}")
        assert await owner.fetchval("SELECT count(*) FROM rowbell.registration") == 0
        assert await register(mallory, "items", 7) == "not_permitted"
        assert await register(mallory, "orders", 7, columns="{status}") is None
        # "Any column" means those that it may select.
        assert await register(mallory, "orders", 8) is None
        registered = await owner.fetch("SELECT columns FROM rowbell.registration ORDER BY columns")
        assert [set(row["columns"]) for row in registered] == [{"id", "status"}, {"status"}]
        await owner.execute(f"REVOKE SELECT (id) ON orders FROM {stranger.username}")
        assert await register(mallory, "orders", 7, columns="{status}") == "not_permitted"


async def test_any_column_means_those_that_a_role_may_select_and_that_there_are(
    orders: AsyncEngine, database: URL
) -> None:
    """An unknown column would make a trigger notify of every change, so it is refused."""
    async with (
        role(database, "GRANT SELECT (id, status) ON orders TO {role}") as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
    ):
        await mallory.execute("SELECT rowbell.open_listener()")
        options = b'{"version":1,"key":{"id":null},"columns":null}'
        await mallory.fetch(
            "SELECT obstacles FROM rowbell.register("
            "ARRAY['orders'::regclass::oid], ARRAY[$1::bytea], ARRAY['{id,nonesuch,xmin}'],"
            " ARRAY['orders'::regclass::oid], ARRAY[hash_record_extended(ROW(7), 0)], ARRAY[NULL])",
            options,
        )
        assert await owner.fetchval("SELECT columns FROM rowbell.registration") == ["id"]


async def test_a_virtual_column_is_registered_with_what_it_derives_from(database: URL) -> None:
    """By name, and as one of all columns that a role may select. Triggers do not see its value."""
    async with connected(database) as owner:
        if owner.get_server_version().major < 18:
            pytest.skip("virtual columns are new in PostgreSQL 18")
        await owner.execute(
            "CREATE TABLE boxes (id int PRIMARY KEY, side int, other int,"
            " area int GENERATED ALWAYS AS (side * side) VIRTUAL)"
        )
        engine = create_async_engine(database)
        metadata = MetaData()
        async with engine.begin() as connection:
            boxes = await connection.run_sync(lambda c: Table("boxes", metadata, autoload_with=c))
            await connection.run_sync(rowbell.install_triggers, boxes)
        await engine.dispose()
        granted = "GRANT SELECT (id, area) ON boxes TO {role}"
        async with role(database, granted) as url, connected(url) as reader:
            await reader.execute("SELECT rowbell.open_listener()")
            assert await register(reader, "boxes", 1, columns="{area}") is None
            assert await register(reader, "boxes", 2) is None
            found = await owner.fetch("SELECT columns FROM rowbell.registration")
            assert [set(row["columns"]) for row in found] in (
                [{"area", "side"}, {"id", "area", "side"}],
                [{"id", "area", "side"}, {"area", "side"}],
            )


@pytest.mark.fault("B44")
@pytest.mark.parametrize("forced", [False, True])
async def test_a_role_that_row_level_security_restricts_is_polled_with_the_reason(
    orders: AsyncEngine, database: URL, forced: bool
) -> None:
    """Notifications would reveal changes of rows that it may not see."""
    async with (
        role(database, "GRANT SELECT, UPDATE ON orders TO {role}") as tenant,
        connected(database) as owner,
    ):
        if forced:
            await owner.execute(f"ALTER TABLE orders OWNER TO {tenant.username}")
            await owner.execute("ALTER TABLE orders FORCE ROW LEVEL SECURITY")
        await owner.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        await owner.execute("CREATE POLICY own ON orders USING (id < 5)")
        engine = create_async_engine(tenant)
        async with RowWatcher(engine, timing=QUICK) as watcher:
            wait = await polled_because(watcher, Reason.ROW_LEVEL_SECURITY)
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()
        # A superuser, or a role with BYPASSRLS, sees all rows and is woken.
        async with armed(orders, Order, 7) as (_, wait):
            await owner.execute("UPDATE orders SET n = 2")
            assert (await wait).n == 2
        await owner.execute("ALTER TABLE orders OWNER TO CURRENT_USER")


async def test_registering_is_a_right_that_can_be_taken_and_granted(
    orders: AsyncEngine, database: URL
) -> None:
    """Installing again keeps what an administrator has granted and revoked."""
    register_of = "FUNCTION rowbell.register"
    async with (
        role(database, "GRANT SELECT ON orders TO {role}") as one,
        role(database, "GRANT SELECT ON orders TO {role}") as two,
        connected(database) as owner,
    ):
        await owner.execute(f"REVOKE EXECUTE ON {register_of} FROM PUBLIC")
        await owner.execute(f"GRANT EXECUTE ON {register_of} TO {one.username}")
        await owner.execute("REVOKE ALL ON FUNCTION rowbell.heartbeat FROM PUBLIC")
        assert await state_of(orders, Order) is TriggerState.OUTDATED
        await run(orders, install_triggers, Order)
        allowed, refused = create_async_engine(one), create_async_engine(two)
        async with armed(allowed), RowWatcher(refused, timing=QUICK) as watcher:
            wait = await polled_because(watcher, Reason.NOT_PERMITTED)
            assert "rowbell.register" in watcher.statistics().detail
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1
        await allowed.dispose()
        await refused.dispose()


async def test_a_role_registers_no_more_rows_than_it_may(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, "GRANT SELECT ON orders TO {role}") as limited,
        connected(database) as owner,
    ):
        await owner.execute(
            "INSERT INTO rowbell.registration_limit VALUES ($1, 3)", limited.username
        )
        engine = create_async_engine(limited)
        async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
            first = await armed_waits(watcher, (1, 2, 3))
            more = await polled_because(
                watcher, Reason.TOO_MANY_REGISTRATIONS, Order, 4, interval=HOUR
            )
            assert watcher.statistics().armed == 3
            await owner.execute("UPDATE rowbell.registration_limit SET registrations = 4")
            await watcher.reached(lambda now: now.armed == 4)
            await owner.execute("UPDATE orders SET n = 1")
            assert {order.n for order in await asyncio.gather(*first, more)} == {1}
        await engine.dispose()


@pytest.mark.parametrize(
    "default",
    [
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "idle_session_timeout = 500",
        "statement_timeout = 1000",
    ],
)
async def test_what_a_role_has_by_default_does_not_keep_it_from_listening(
    orders: AsyncEngine, database: URL, default: str
) -> None:
    async with (
        role(
            database, "GRANT SELECT ON orders TO {role}", f"ALTER ROLE {{role}} SET {default}"
        ) as app,
        connected(database) as owner,
    ):
        engine = create_async_engine(app, poolclass=NullPool)
        another = create_async_engine(app, poolclass=NullPool)
        async with (
            armed(engine, Order, 1, 2) as (watcher, waits),
            armed(another, Order, 3) as (other, third),
        ):
            await owner.execute("SELECT pg_sleep(0.8)")  # this is about the server's clock
            await owner.execute("UPDATE orders SET n = 1")
            assert {(await wait).n for wait in (*waits, third)} == {1}
            assert watcher.statistics().reconnects == other.statistics().reconnects == 0
        await another.dispose()
        await engine.dispose()


async def test_a_role_that_listens_for_another_must_be_allowed_what_is_watched(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, "GRANT SELECT (id) ON orders TO {role}") as ears,
        connected(database) as owner,
        RowWatcher(orders, listen_url=ears, recheck=None, timing=QUICK) as watcher,
    ):
        wait = await polled_because(watcher, Reason.NOT_PERMITTED)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_a_role_that_may_not_read_a_table_registers_none_of_its_rows(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, "GRANT UPDATE ON orders TO {role}") as url,
        connected(url) as stranger,
        connected(database) as owner,
    ):
        await stranger.execute("SELECT rowbell.open_listener()")
        assert await register(stranger, "orders", 1) == "not_permitted"
        assert await owner.fetchval("SELECT count(*) FROM rowbell.registration") == 0
