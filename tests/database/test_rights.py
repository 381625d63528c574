"""What strangers, writers and installers may do: nobody gains a right by rowbell."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import URL, MetaData, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

import rowbell
import rowbell.alembic
from rowbell import (
    LockTimeoutError,
    Reason,
    RowWatcher,
    TriggerError,
    TriggerState,
    install_triggers,
    trigger_status,
)
from rowbell._watch.database.schema import FUNCTIONS
from rowbell._watch.database.triggers import TableTriggers
from rowbell._watch.values.key_hash import KeyColumn
from support.models import Item, Order
from support.observed import execute
from support.orders import add_orders
from support.paths import ROOT
from support.roles import Isolation, Warned, connected, register, role
from support.waits import QUICK, armed, armed_wait, notified, run, state_of

SECURITY = ROOT / "SECURITY.md"


# -- what is written down


async def test_the_rights_on_every_object_are_those_that_security_md_says(
    database: URL,
) -> None:
    rows = re.findall(
        r"^\| `(\w+)(?:\(\))?` \| (.+?) \| (.+?) \|", SECURITY.read_text(), re.MULTILINE
    )
    written = {name: (kind, rights) for name, kind, rights in rows}
    async with connected(database) as owner:
        functions = await owner.fetch(
            "SELECT proname, prosecdef, EXISTS (SELECT FROM aclexplode(proacl) AS a"
            " WHERE a.grantee = 0) AS everybody, EXISTS (SELECT FROM aclexplode(proacl) AS a"
            " WHERE a.grantee NOT IN (0, proowner)) AS others FROM pg_proc"
            " WHERE pronamespace = 'rowbell'::regnamespace AND prorettype <> 'trigger'::regtype"
        )
        relations = await owner.fetch(
            "SELECT relname, (SELECT coalesce(string_agg(lower(a.privilege_type), ', '"
            "  ORDER BY a.privilege_type), 'nobody') FROM aclexplode(relacl) AS a"
            "  WHERE a.grantee <> relowner) AS rights,"
            " EXISTS (SELECT FROM aclexplode(relacl) AS a WHERE a.grantee NOT IN (0, relowner))"
            " AS others FROM pg_class"
            " WHERE relnamespace = 'rowbell'::regnamespace AND relkind IN ('r', 'm', 'S')"
        )
    assert not any(row["others"] for row in (*functions, *relations))
    found = {
        row["proname"]: (
            "definer" if row["prosecdef"] else "invoker",
            "everybody" if row["everybody"] else "owner",
        )
        for row in functions
    }
    assert set(found) == set(FUNCTIONS)
    for row in relations:
        found[row["relname"]] = (written[row["relname"]][0], row["rights"])
    assert {name: written.get(name) for name in found} == found


# -- nobody's code runs with our rights


async def test_the_types_of_a_stranger_run_none_of_its_code_as_somebody_else(
    orders: AsyncEngine, database: URL
) -> None:
    """Casts, operators and hash functions of a row's type run as the writer, or not at all."""
    async with (
        role(database, "CREATE SCHEMA evil AUTHORIZATION {role}") as stranger,
        connected(stranger) as mallory,
    ):
        function = await mallory.fetchval(
            "SELECT tgfoid::regproc::text FROM pg_trigger"
            " WHERE tgrelid = 'orders'::regclass AND tgname = 'rowbell_update'"
        )
        await mallory.execute(
            """
            CREATE TYPE evil.evil AS ENUM ('a', 'b');
            CREATE TABLE evil.loot (who text);
            GRANT ALL ON evil.loot TO PUBLIC; GRANT USAGE ON SCHEMA evil TO PUBLIC;
            CREATE TABLE evil.mine (id int PRIMARY KEY, e evil.evil);
            CREATE FUNCTION evil.to_json(evil.evil) RETURNS json LANGUAGE plpgsql AS $$
              BEGIN INSERT INTO evil.loot VALUES (current_user); RETURN '1'::json; END $$;
            CREATE FUNCTION evil.differs(evil.evil, evil.evil) RETURNS bool
              LANGUAGE plpgsql AS $$
              BEGIN INSERT INTO evil.loot VALUES (current_user); RETURN true; END $$;
            CREATE OPERATOR evil.*<> (
              FUNCTION = evil.differs, LEFTARG = evil.evil, RIGHTARG = evil.evil);
            CREATE CAST (evil.evil AS json) WITH FUNCTION evil.to_json(evil.evil);
            INSERT INTO evil.mine VALUES (1, 'a');
            """
        )
        tables = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT"
        argument = '{"version":1,"key":{"id":null},"columns":null}'
        for event, referencing in (
            ("UPDATE", tables),
            ("DELETE", "REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT"),
            ("TRUNCATE", ""),
        ):
            await mallory.execute(
                f"CREATE TRIGGER rowbell_{event.lower()} AFTER {event} ON evil.mine {referencing}"
                f" EXECUTE FUNCTION {function}('{argument}')"
            )
        await mallory.execute("SELECT rowbell.open_listener()")
        assert await register(mallory, "evil.mine", 1) is None
        assert await register(mallory, "evil.mine", 1, columns="{e}") is None
        await mallory.execute("UPDATE evil.mine SET e = 'b'")
        loot = {row["who"] for row in await mallory.fetch("SELECT who FROM evil.loot")}
        assert loot <= {str(stranger.username)}


async def test_no_trigger_or_function_of_ours_depends_on_what_others_may_create(
    engine: AsyncEngine, database: URL
) -> None:
    """Also where somebody has put operators of the same name into the installer's search_path."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched(columns=["name"])
    class Declared(Base):
        __tablename__ = "declared"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    @rowbell.watched(for_each="row")
    class ByRow(Base):
        __tablename__ = "by_row"
        id: Mapped[int] = mapped_column(primary_key=True)

    traps = """
        CREATE SCHEMA traps;
        CREATE TABLE traps.sprung (how text);
        GRANT ALL ON SCHEMA traps TO PUBLIC;
        CREATE TABLE public.by_row (id int PRIMARY KEY);
        CREATE FUNCTION traps.yes(public.by_row, public.by_row) RETURNS bool
          LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION traps.yes(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION traps.yes(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION traps.record_image_ne(record, record) RETURNS bool
          LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        CREATE OPERATOR traps.*<> (
          FUNCTION = traps.yes, LEFTARG = public.by_row, RIGHTARG = public.by_row);
        CREATE OPERATOR traps.= (FUNCTION = traps.yes, LEFTARG = text, RIGHTARG = text);
        CREATE OPERATOR traps.= (FUNCTION = traps.yes, LEFTARG = oid, RIGHTARG = oid);
        CREATE FUNCTION traps.spring(name, varchar) RETURNS bool LANGUAGE plpgsql AS $$
          BEGIN INSERT INTO traps.sprung VALUES ('='); RETURN true; END $$;
        CREATE OPERATOR traps.= (FUNCTION = traps.spring, LEFTARG = name, RIGHTARG = varchar);
        CREATE FUNCTION traps.to_regclass(varchar) RETURNS regclass LANGUAGE plpgsql AS $$
          BEGIN INSERT INTO traps.sprung VALUES ('to_regclass'); RETURN NULL; END $$;
        CREATE FUNCTION traps.set_config(text, varchar, bool) RETURNS text LANGUAGE plpgsql AS $$
          BEGIN INSERT INTO traps.sprung VALUES ('set_config'); RETURN ''; END $$;
    """
    async with connected(database) as owner:
        await owner.execute(traps)
        await owner.execute("DROP SCHEMA rowbell CASCADE")
    async with engine.begin() as connection:
        await connection.execute(text("SET search_path = traps, pg_catalog, public"))
        await connection.run_sync(Declared.metadata.tables["declared"].create)
        await connection.run_sync(install_triggers, Order, ByRow)
        await connection.run_sync(trigger_status, Order, ByRow)
        path = await connection.scalar(text("SHOW search_path"))
        await connection.execute(text("SET search_path TO DEFAULT"))
    assert path == "traps, pg_catalog, public"
    async with connected(database) as owner:
        foreign = await owner.fetch(
            """
            WITH ours AS (
              SELECT 'pg_trigger'::regclass AS class, t.oid FROM pg_trigger AS t
              WHERE t.tgname LIKE 'rowbell\\_%'
              UNION ALL
              SELECT 'pg_proc'::regclass, f.oid FROM pg_proc AS f
              WHERE f.pronamespace = 'rowbell'::regnamespace
              UNION ALL
              SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite AS w
              WHERE w.ev_class = 'rowbell.channel_secret'::regclass
            ), theirs AS (
              SELECT 'pg_proc'::regclass AS class, f.oid, f.pronamespace AS schema
              FROM pg_proc AS f
              UNION ALL
              SELECT 'pg_operator'::regclass, o.oid, o.oprnamespace FROM pg_operator AS o
              UNION ALL
              SELECT 'pg_cast'::regclass, c.oid, coalesce(f.pronamespace, 0)
              FROM pg_cast AS c LEFT JOIN pg_proc AS f ON f.oid = c.castfunc
            )
            SELECT pg_describe_object(d.classid, d.objid, 0),
                   pg_describe_object(d.refclassid, d.refobjid, 0)
            FROM pg_depend AS d
            JOIN ours ON ours.class = d.classid AND ours.oid = d.objid
            JOIN theirs ON theirs.class = d.refclassid AND theirs.oid = d.refobjid
            WHERE theirs.schema NOT IN ('pg_catalog'::regnamespace, 'rowbell'::regnamespace)
            """
        )
        triggers = await owner.fetchval(
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rowbell\\_%'"
        )
        sprung = await owner.fetch("SELECT DISTINCT how FROM traps.sprung")
    assert (foreign, sprung, triggers) == ([], [], 9)


# -- whoever writes


REVOKED = {
    "the schema": "REVOKE ALL ON SCHEMA rowbell FROM PUBLIC",
    "the tables": "REVOKE ALL ON ALL TABLES IN SCHEMA rowbell FROM PUBLIC",
    "the sequences": "REVOKE ALL ON ALL SEQUENCES IN SCHEMA rowbell FROM PUBLIC",
    "the functions": "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowbell FROM PUBLIC",
}


@pytest.mark.fault("B28")
@pytest.mark.parametrize("revoked", REVOKED.values(), ids=REVOKED)
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_a_writer_without_any_right_on_what_is_ours_wakes_all_the_same(
    orders: AsyncEngine, database: URL, revoked: str, isolation: Isolation
) -> None:
    async with (
        role(database, "GRANT SELECT, UPDATE ON orders TO {role}") as writer,
        armed(orders) as (_, wait),
        connected(database) as owner,
        connected(writer) as connection,
        Warned(connection) as warned,
    ):
        await owner.execute(revoked)
        async with connection.transaction(isolation=isolation):
            for _ in range(3):
                await connection.execute("UPDATE orders SET n = n + 1 WHERE id = 1")
        assert (await wait).n == 3
        await connection.fetch("SELECT 1")
        assert len(warned.messages) <= 1


async def test_the_cascade_of_a_foreign_key_notifies_whoever_it_runs_as(
    orders: AsyncEngine, database: URL
) -> None:
    """As the child's owner in PostgreSQL 18, as the outer role before; neither has a right here."""
    await execute(database, "INSERT INTO items VALUES (1, 1, '')")
    async with (
        role(database, options="NOLOGIN") as child_owner,
        role(database, "GRANT SELECT, DELETE ON orders TO {role}") as writer,
        connected(database) as owner,
        armed(orders, Item) as (_, wait),
    ):
        await owner.execute(f"ALTER TABLE items OWNER TO {child_owner.username}")
        for statement in REVOKED.values():
            await owner.execute(statement)
        async with connected(writer) as connection:
            await connection.execute("DELETE FROM orders WHERE id = 1")
        with pytest.raises(rowbell.NotFoundError, match="was deleted"):
            await wait
        await owner.execute("ALTER TABLE items OWNER TO CURRENT_USER")


async def test_a_deferred_trigger_notifies_after_the_role_was_reset(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, options="NOLOGIN") as actor,
        connected(database) as owner,
        armed(orders) as (_, wait),
    ):
        await owner.execute(
            f"""
            CREATE TABLE log (id int);
            CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN UPDATE orders SET n = 7 WHERE id = 1; RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER later AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED
              FOR EACH ROW EXECUTE FUNCTION touch();
            GRANT INSERT ON log TO {actor.username};
            GRANT SELECT, UPDATE ON orders TO {actor.username};
            """
        )
        for statement in REVOKED.values():
            await owner.execute(statement)
        async with owner.transaction():
            await owner.execute(f"SET LOCAL ROLE {actor.username}")
            await owner.execute("INSERT INTO log VALUES (1)")
            await owner.execute("RESET ROLE")
        assert (await wait).n == 7


@pytest.mark.fault("B27")
async def test_what_a_subscription_applies_notifies(engine: AsyncEngine, database: URL) -> None:
    """Logical replication from another database, by an owner without any right on what is ours."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched(replicated=True)
    class Copy(Base):
        __tablename__ = "copies"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    source = database.set(database=f"{database.database}_source")
    name = f"slot_{database.database}"[:60].replace("-", "_")
    async with connected(database) as owner:
        if await owner.fetchval("SHOW wal_level") != "logical":
            pytest.skip("needs a server with wal_level = logical")
        await owner.execute(f'CREATE DATABASE "{source.database}"')
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text("INSERT INTO copies VALUES (1, 0)"))
        async with connected(source) as publisher, connected(database) as owner:
            await publisher.execute("CREATE TABLE copies (id int PRIMARY KEY, n int)")
            await publisher.execute("INSERT INTO copies VALUES (1, 0)")
            await publisher.execute("CREATE PUBLICATION p FOR TABLE copies")
            await publisher.execute(
                f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"
            )
            for statement in REVOKED.values():
                await owner.execute(statement)
            host = source.query.get("host", source.host)
            port = source.query.get("port", source.port) or 5432
            await owner.execute(
                f"CREATE SUBSCRIPTION s CONNECTION 'host={host} port={port}"
                f" user={source.username} dbname={source.database}' PUBLICATION p"
                f" WITH (create_slot = false, slot_name = '{name}', copy_data = false)"
            )
            async with armed(engine, Copy) as (_, wait):
                await publisher.execute("UPDATE copies SET n = 1")
                assert (await wait).n == 1
            await owner.execute("ALTER SUBSCRIPTION s DISABLE")
            await owner.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            await owner.execute("DROP SUBSCRIPTION s")
    finally:
        async with connected(database.set(database="postgres")) as owner:
            await owner.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
                " WHERE slot_name = $1 AND active",
                name,
            )
            await owner.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = $1",
                name,
            )
            await owner.execute(f'DROP DATABASE "{source.database}" WITH (FORCE)')


# -- what strangers learn


async def test_nobody_else_learns_a_listeners_channel(orders: AsyncEngine, database: URL) -> None:
    """Not by its process ID, not by becoming a listener, nor by default privileges."""
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

                def hear(*notification: object) -> None:
                    heard.append(notification[3])

                numbers = await mallory.fetch("SELECT number, backend_pid FROM rowbell.listener")
                own = await mallory.fetchval("SELECT channel FROM rowbell.open_listener()")
                for guess in (
                    "rowbell",
                    own,
                    *(f"rowbell_{value}" for row in numbers for value in row.values()),
                ):
                    await mallory.add_listener(guess, hear)
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
        # "Any column" means those that it may see.
        assert await register(mallory, "orders", 8) is None
        registered = await owner.fetch("SELECT columns FROM rowbell.registration ORDER BY columns")
        assert [set(row["columns"]) for row in registered] == [{"id", "status"}, {"status"}]
        await owner.execute(f"REVOKE SELECT (id) ON orders FROM {stranger.username}")
        assert await register(mallory, "orders", 7, columns="{status}") == "not_permitted"


async def test_any_column_means_those_that_a_role_may_select_and_that_there_are(
    orders: AsyncEngine, database: URL
) -> None:
    """What is no column makes a trigger notify of every change: nobody may name such."""
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
    """By name, and as one of all that a role may SELECT; triggers see nothing of it itself."""
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
    """Notifications would tell of rows that it may not see."""
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
            wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
            await watcher.reached(lambda now: now.reason is Reason.ROW_LEVEL_SECURITY)
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()
        # A superuser, or who bypasses it, sees all and is woken.
        async with armed(orders, Order, 7) as (_, wait):
            await owner.execute("UPDATE orders SET n = 2")
            assert (await wait).n == 2
        await owner.execute("ALTER TABLE orders OWNER TO CURRENT_USER")


async def test_registering_is_a_right_that_can_be_taken_and_granted(
    orders: AsyncEngine, database: URL
) -> None:
    """And what an administrator has decided outlives a new installation."""
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
            wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
            await watcher.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
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
            first = [
                asyncio.create_task(watcher.wait_for_change(Order, key, interval=60, timeout=20))
                for key in (1, 2, 3)
            ]
            await watcher.reached(lambda now: now.armed == 3)
            more = asyncio.create_task(watcher.wait_for_change(Order, 4, interval=60, timeout=20))
            await watcher.reached(lambda now: now.reason is Reason.TOO_MANY_REGISTRATIONS)
            assert watcher.statistics().armed == 3
            await owner.execute("UPDATE rowbell.registration_limit SET registrations = 4")
            await watcher.reached(lambda now: now.armed == 4)
            await owner.execute("UPDATE orders SET n = 1")
            assert {order.n for order in await asyncio.gather(*first, more)} == {1}
        await engine.dispose()


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
            "SELECT setval('rowbell.has_registrations', 0)",
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
            "SELECT rowbell.close_listener(), rowbell.delete_stale(), rowbell.lower_flag()"
        )
        async with connected(database) as owner:
            await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


@pytest.mark.fault("B8", "B28")
async def test_forged_notifications_cost_a_limited_number_of_reads_and_hide_nothing(
    orders: AsyncEngine, database: URL
) -> None:
    """Broadcast ones, ones of another version, and ones by way of the function for triggers."""
    rows = 3_000
    await add_orders(orders, 101, rows)
    oid = "'orders'::regclass::oid"
    async with (
        role(database) as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
        RowWatcher(orders, mode="listen", recheck=None) as watcher,
    ):
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, i + 1, interval=60, timeout=60))
            for i in range(rows)
        ]
        await watcher.reached(lambda now: now.armed == rows)
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
        # Each of them alone would have read all rows; the first does, and then so many a second.
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


# -- who installs


async def test_whoever_holds_the_installers_lock_is_named(
    orders: AsyncEngine, database: URL
) -> None:
    await run(orders, rowbell.remove_triggers, Item)
    async with role(database) as stranger, connected(stranger) as mallory:
        await mallory.execute("SELECT pg_advisory_lock(hashtextextended('rowbell', 0))")
        pid = mallory.get_server_pid()
        with pytest.raises(LockTimeoutError, match=f"process {pid}") as caught:
            await run(orders, install_triggers, Item, lock_timeout="50ms")
        assert caught.value.holders == (pid,)


SQUAT = "CREATE SCHEMA rowbell; CREATE TABLE rowbell.registration (table_oid oid)"
OTHERS = {
    "has made the schema": ("", SQUAT),
    "may create in it": ("GRANT CREATE ON SCHEMA rowbell TO {role}", ""),
    "owns a table of it": ("ALTER TABLE rowbell.registration OWNER TO {role}", ""),
    "owns a function of it": ("ALTER FUNCTION rowbell.notify OWNER TO {role}", ""),
}


@pytest.mark.parametrize(("given", "taken"), OTHERS.values(), ids=OTHERS)
async def test_a_schema_is_refused_if_somebody_else(
    orders: AsyncEngine, database: URL, given: str, taken: str
) -> None:
    name = f'"{database.database}"'
    async with (
        role(database, f"GRANT CREATE ON DATABASE {name} TO {{role}}") as stranger,
        connected(stranger) as bob,
        connected(database) as owner,
    ):
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        if taken:
            await bob.execute(taken)
        else:
            await run(orders, install_triggers, Order)
            await owner.execute(given.format(role=stranger.username))
        with pytest.raises(TriggerError, match=f"is {stranger.username}'s"):
            await run(orders, install_triggers, Order)
        if given:
            assert await state_of(orders, Order) is TriggerState.UNTRUSTED
            async with RowWatcher(orders, timing=QUICK) as watcher:
                wait = asyncio.create_task(
                    watcher.wait_for_change(Order, 1, interval=0.05, timeout=20)
                )
                await watcher.reached(lambda now: now.reason is Reason.UNTRUSTED)
                await owner.execute("UPDATE orders SET n = 1")
                assert (await wait).n == 1
        await owner.execute("DROP SCHEMA rowbell CASCADE")


async def test_the_owner_that_becomes_another_is_noticed_by_the_heartbeat(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, options="NOLOGIN") as bob,
        connected(database) as owner,
        RowWatcher(orders, recheck=None, timing=QUICK) as watcher,
    ):
        wait = await armed_wait(watcher, interval=0.05)
        await owner.execute(f"ALTER FUNCTION rowbell.notify OWNER TO {bob.username}")
        await watcher.reached(lambda now: now.reason is Reason.UNTRUSTED)
        await owner.execute("ALTER FUNCTION rowbell.notify OWNER TO CURRENT_USER")
        await watcher.reached(lambda now: now.armed == 1)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_a_superuser_installs_first_and_other_roles_their_own_tables_later(
    orders: AsyncEngine, database: URL
) -> None:
    """Two of them, side by side: each needs no more than to own its tables and their schema."""
    for number in (1, 2):

        class Base(DeclarativeBase):
            pass

        @rowbell.watched
        class Mine(Base):
            __tablename__ = f"mine_{number}"
            __table_args__ = {"schema": f"home_{number}"}
            id: Mapped[int] = mapped_column(primary_key=True)
            n: Mapped[int]

        async with role(
            database, f"CREATE SCHEMA home_{number} AUTHORIZATION {{role}}"
        ) as application:
            engine = create_async_engine(application)
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
                await connection.execute(insert(Mine).values(id=1, n=0))
            assert await state_of(engine, Mine) is TriggerState.INSTALLED
            assert await run(engine, install_triggers, Mine) == []
            async with armed(engine, Mine) as (_, wait), connected(application) as writer:
                await writer.execute(f"UPDATE home_{number}.mine_{number} SET n = 1")
                assert (await wait).n == 1
            assert await run(engine, rowbell.remove_triggers, Mine)
            await engine.dispose()


async def test_a_migration_role_that_has_changed_goes_on_where_the_other_left_off(
    engine: AsyncEngine, database: URL
) -> None:
    """Both are members of the role that owns the tables; or everything was reassigned."""
    name = f'"{database.database}"'
    async with (
        role(database, f"GRANT CREATE ON DATABASE {name} TO {{role}}", options="NOLOGIN") as group,
        role(database, f"GRANT {group.username} TO {{role}}") as before,
        role(database, f"GRANT {group.username} TO {{role}}") as after,
        connected(database) as owner,
    ):
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        await owner.execute(f"CREATE SCHEMA app AUTHORIZATION {group.username}")
        await owner.execute("CREATE TABLE app.things (id int PRIMARY KEY, n int)")
        await owner.execute(f"ALTER TABLE app.things OWNER TO {group.username}")
        await owner.execute("INSERT INTO app.things VALUES (1, 0)")

        class Base(DeclarativeBase):
            pass

        @rowbell.watched
        class Thing(Base):
            __tablename__ = "things"
            __table_args__ = {"schema": "app"}
            id: Mapped[int] = mapped_column(primary_key=True)
            n: Mapped[int]

        first, second = create_async_engine(before), create_async_engine(after)
        assert await run(first, install_triggers, Thing)
        assert await state_of(second, Thing) is TriggerState.INSTALLED
        assert await run(second, install_triggers, Thing) == []
        await owner.execute(f"REASSIGN OWNED BY {before.username} TO {after.username}")
        assert await state_of(second, Thing) is TriggerState.INSTALLED
        assert await run(second, rowbell.remove_triggers, Thing)
        assert await run(second, install_triggers, Thing)
        async with armed(second, Thing) as (_, wait):
            await owner.execute("UPDATE app.things SET n = 1")
            assert (await wait).n == 1
        await first.dispose()
        await second.dispose()
        await owner.execute("DROP SCHEMA rowbell CASCADE")


async def test_a_printed_migration_refuses_a_schema_of_somebody_else(
    orders: AsyncEngine, database: URL
) -> None:
    """``alembic upgrade --sql`` cannot look; what it has printed does."""
    rowbell.alembic.register()
    printed = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": printed}
    )
    operations: Any = Operations(context)
    operations.create_row_triggers("orders", key=["id"])
    name = f'"{database.database}"'
    async with (
        role(database, f"GRANT CREATE ON DATABASE {name} TO {{role}}") as stranger,
        connected(stranger) as bob,
        connected(database) as owner,
    ):
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        await bob.execute(SQUAT)
        with pytest.raises(asyncpg.PostgresError):
            await owner.execute(f"BEGIN; {printed.getvalue()} COMMIT;")
        await owner.execute("ROLLBACK")
        await bob.execute("DROP TABLE rowbell.registration")
        with pytest.raises(asyncpg.RaiseError, match=f"is {stranger.username}'s"):
            await owner.execute(f"BEGIN; {printed.getvalue()} COMMIT;")
        await owner.execute("ROLLBACK; DROP SCHEMA rowbell CASCADE")
        await owner.execute(f"BEGIN; {printed.getvalue()} COMMIT;")
        assert await state_of(orders, Order) is TriggerState.INSTALLED


async def test_a_trigger_function_that_a_stranger_has_prepared_is_refused(
    orders: AsyncEngine, database: URL
) -> None:
    """Its name can be foreseen; CREATE OR REPLACE would leave it the stranger's."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched
    class Shared(Base):
        __tablename__ = "shared"
        __table_args__ = {"schema": "common"}
        id: Mapped[int] = mapped_column(primary_key=True)

    async with (
        role(database, "CREATE SCHEMA common; GRANT ALL ON SCHEMA common TO {role}") as stranger,
        role(
            database,
            f"GRANT {stranger.username} TO {{role}}",
            "GRANT ALL ON SCHEMA common TO {role}",
        ) as deployer,
        connected(stranger) as evil,
    ):
        engine = create_async_engine(deployer)
        async with engine.begin() as connection:
            table = Shared.metadata.tables["common.shared"]
            await connection.execute(text("CREATE TABLE common.shared (id int PRIMARY KEY)"))
            triggers = TableTriggers("common", "shared", (KeyColumn("id"),), role=deployer.username)
        create, _ = triggers.create_function()
        await evil.execute(create)
        with pytest.raises(TriggerError, match=f"the trigger function is {stranger.username}'s"):
            await run(engine, install_triggers, table)
        assert await state_of(engine, table) is TriggerState.MISSING
        await engine.dispose()


async def test_nothing_of_a_stranger_runs_as_the_role_that_listens_and_reads(
    orders: AsyncEngine, database: URL
) -> None:
    """Though the stranger may create in a schema of its search_path, as everybody could in 14."""
    async with (
        role(database, "GRANT SELECT ON orders TO {role}") as app,
        role(database, "GRANT CREATE ON SCHEMA public TO {role}") as stranger,
        connected(stranger) as evil,
        connected(database) as owner,
    ):
        await evil.execute(
            """
            CREATE TABLE public.sprung (how text); GRANT ALL ON public.sprung TO PUBLIC;
            CREATE FUNCTION public.spring(how text) RETURNS void LANGUAGE sql AS
              'INSERT INTO public.sprung VALUES (how || current_user)';
            CREATE FUNCTION public.to_regclass(varchar) RETURNS regclass LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('to_regclass'); RETURN NULL; END $$;
            CREATE FUNCTION public.hash_record_extended(record, int) RETURNS bigint
              LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('hash'); RETURN 0; END $$;
            CREATE FUNCTION public.unnest(int[]) RETURNS SETOF int LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('unnest'); RETURN; END $$;
            CREATE FUNCTION public.pg_notify(varchar, text) RETURNS void LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('pg_notify'); END $$;
            CREATE FUNCTION public.glue(name, name) RETURNS text LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('||'); RETURN ''; END $$;
            CREATE OPERATOR public.|| (FUNCTION = public.glue, LEFTARG = name, RIGHTARG = name);
            CREATE FUNCTION public.same(oid, int) RETURNS bool LANGUAGE plpgsql AS
              $$ BEGIN PERFORM public.spring('='); RETURN false; END $$;
            CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = oid, RIGHTARG = int)
            """
        )
        engine = create_async_engine(app)
        async with armed(engine) as (watcher, wait):
            await watcher.reached(lambda now: now.armed == 1)
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()
        assert await owner.fetch("SELECT DISTINCT how FROM public.sprung") == []


@pytest.mark.parametrize(
    "columns", ["{nonesuch}", "{NULL}", '{""}', "{row_to_json}", "{n,nonesuch}", "{}"]
)
async def test_what_is_no_column_is_not_registered(
    orders: AsyncEngine, database: URL, columns: str
) -> None:
    """A writer's trigger makes SQL of those names."""
    async with (
        role(database, "GRANT SELECT ON orders TO {role}") as stranger,
        connected(stranger) as mallory,
        connected(database) as owner,
        Warned(owner) as warned,
    ):
        await mallory.execute("SELECT rowbell.open_listener()")
        await register(mallory, "orders", 1, columns=columns)
        await register(mallory, "orders", 2, columns="{n,n,n,n}")
        registered = await owner.fetch("SELECT columns FROM rowbell.registration")
        assert [row["columns"] for row in registered] == [["n"]]
        await owner.execute("UPDATE orders SET n = n + 1")
    assert warned.messages == []


async def test_an_untrusted_table_leaves_the_waits_on_others_armed(
    orders: AsyncEngine, database: URL
) -> None:
    await execute(database, "INSERT INTO items VALUES (1, 1, '')")
    async with (
        role(database, "CREATE SCHEMA theirs AUTHORIZATION {role}") as stranger,
        connected(stranger) as evil,
        connected(database) as owner,
        RowWatcher(orders, recheck=None, timing=QUICK) as watcher,
    ):
        await evil.execute(
            "CREATE FUNCTION theirs.f() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NULL; END $$"
        )
        await owner.execute(f"GRANT TRIGGER ON items TO {stranger.username}")
        argument = '{"version":1,"key":{"id":null},"columns":null}'
        await evil.execute(
            "CREATE OR REPLACE TRIGGER rowbell_truncate AFTER TRUNCATE ON items"
            f" EXECUTE FUNCTION theirs.f('{argument}')"
        )
        good = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=60, timeout=20))
        bad = asyncio.create_task(watcher.wait_for_change(Item, 1, interval=60, timeout=20))
        await watcher.reached(lambda now: now.armed == 1 and now.reason is Reason.UNTRUSTED)
        for _ in range(3):  # heartbeats
            seen = await owner.fetchval(
                "SELECT query_start FROM pg_stat_activity WHERE application_name LIKE 'rowbell%'"
            )
            while seen == await owner.fetchval(
                "SELECT query_start FROM pg_stat_activity WHERE application_name LIKE 'rowbell%'"
            ):
                await asyncio.sleep(0.01)  # a server tells nobody that it was asked
        assert (watcher.statistics().reconnects, watcher.statistics().armed) == (0, 1)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await good).n == 1
        bad.cancel()
        await asyncio.wait([bad])


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
            await owner.execute("SELECT pg_sleep(0.8)")  # the server's clock is what it is about
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
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.05, timeout=20))
        await watcher.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await wait).n == 1


async def test_only_functions_of_ours_are_dropped_with_triggers(
    orders: AsyncEngine, database: URL
) -> None:
    async with connected(database) as owner:
        await owner.execute(
            "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NULL; END $$;"
            "CREATE OR REPLACE TRIGGER rowbell_truncate AFTER TRUNCATE ON items"
            " EXECUTE FUNCTION audit()"
        )
        assert await run(orders, rowbell.remove_triggers, Item)
        assert await owner.fetchval("SELECT to_regprocedure('audit()') IS NOT NULL")


async def test_a_role_with_a_quote_in_its_name_may_install(
    orders: AsyncEngine, database: URL
) -> None:
    async with connected(database) as owner:
        await owner.execute('CREATE ROLE "o\'brien" SUPERUSER')
        await run(orders, rowbell.remove_triggers, Item)
        async with orders.begin() as connection:
            await connection.execute(text('SET LOCAL ROLE "o\'brien"'))
            assert await connection.run_sync(install_triggers, Item)
            assert await connection.scalar(text("SELECT current_user")) == "o'brien"
        await owner.execute('DROP OWNED BY "o\'brien" CASCADE; DROP ROLE "o\'brien"')
