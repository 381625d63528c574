"""Which roles may install, and which owners of objects are not trusted."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import URL, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
import rowbell.alembic
from rowbell import (
    LockTimeoutError,
    Reason,
    RowWatcher,
    TriggerError,
    TriggerState,
    install_triggers,
)
from rowbell._watch.database.schema import FUNCTIONS
from support.models import Item, Order
from support.observed import execute
from support.paths import ROOT
from support.roles import connected, role
from support.waits import HOUR, QUICK, armed, armed_wait, polled_because, run, state_of

SECURITY = ROOT / "SECURITY.md"


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


async def test_the_holder_of_the_installers_lock_is_named(
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
        with pytest.raises(TriggerError, match=f"belongs to {stranger.username}"):
            await run(orders, install_triggers, Order)
        if given:
            assert await state_of(orders, Order) is TriggerState.UNTRUSTED
            async with RowWatcher(orders, timing=QUICK) as watcher:
                wait = await polled_because(watcher, Reason.UNTRUSTED)
                await owner.execute("UPDATE orders SET n = 1")
                assert (await wait).n == 1
        await owner.execute("DROP SCHEMA rowbell CASCADE")


async def test_a_changed_owner_is_noticed_by_the_heartbeat(
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
    """There are two such roles. Each needs only to own its tables and their schema."""
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
    """Both are members of the role that owns the tables, or REASSIGN OWNED was used."""
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
    """``alembic upgrade --sql`` cannot check the owner, but the printed SQL does."""
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
        with pytest.raises(asyncpg.RaiseError, match=f"belongs to {stranger.username}"):
            await owner.execute(f"BEGIN; {printed.getvalue()} COMMIT;")
        await owner.execute("ROLLBACK; DROP SCHEMA rowbell CASCADE")
        await owner.execute(f"BEGIN; {printed.getvalue()} COMMIT;")
        assert await state_of(orders, Order) is TriggerState.INSTALLED


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
        good = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=HOUR))
        bad = asyncio.create_task(watcher.wait_for_change(Item, 1, interval=HOUR))
        await watcher.reached(lambda now: now.armed == 1 and now.reason is Reason.UNTRUSTED)
        for _ in range(3):  # heartbeats
            seen = await owner.fetchval(
                "SELECT query_start FROM pg_stat_activity WHERE application_name LIKE 'rowbell%'"
            )
            while seen == await owner.fetchval(
                "SELECT query_start FROM pg_stat_activity WHERE application_name LIKE 'rowbell%'"
            ):
                await asyncio.sleep(0.01)  # the server does not announce a query
        assert (watcher.statistics().reconnects, watcher.statistics().armed) == (0, 1)
        await owner.execute("UPDATE orders SET n = 1")
        assert (await good).n == 1
        bad.cancel()
        await asyncio.wait([bad])


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
