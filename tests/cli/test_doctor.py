"""``rowbell doctor``: each check, with the fault behind it that it is for."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import RowWatcher, create_database, drop_database, install_triggers
from rowbell.cli.checks import activity, listening
from rowbell.embedded import EmbeddedServer
from support.command import call, called
from support.models import Order
from support.observed import execute
from support.pgbouncer import pgbouncer
from support.proxy import Proxy
from support.queue import queue_held
from support.roles import connected, role
from support.servers import standby_of
from support.waits import QUICK, armed_wait


@pytest.fixture
async def empty(server: URL) -> AsyncIterator[URL]:
    """A database without anything of rowbell's."""
    name = f"doctor_{os.getpid()}"
    await drop_database(name, server_url=server, missing_ok=True)
    await create_database(name, server_url=server)
    yield server.set(database=name)
    await drop_database(name, server_url=server)


async def test_a_database_in_which_all_is_well(orders: AsyncEngine, database: URL) -> None:
    """A line for each check, with its evidence, and nothing is changed."""
    result = await called("doctor", "--json", url=database)
    findings = result.findings()
    assert result.code == 0, findings
    expected = ["server version", "primary", "no pooler", "connections", "LISTEN"]
    expected += ["schema rowbell", "objects and rights", "trust", "rights", "registrations"]
    expected += ["listeners", "notification queue", "long transactions", "table public.orders"]
    assert set(expected) <= set(findings)
    assert {findings[check]["outcome"] for check in expected} <= {"ok", "warning"}
    assert "arrived after" in findings["LISTEN"]["evidence"]
    shown = await called("doctor", url=database)
    assert "0 failed" in shown.out


async def test_a_role_without_rights_is_told_as_much(orders: AsyncEngine, database: URL) -> None:
    async with role(database) as stranger:
        result = await called("doctor", "--json", url=stranger)
        assert result.code == 0, result.json
        assert result.findings()["objects and rights"]["outcome"] == "ok"


async def test_the_version_of_the_server(orders: AsyncEngine, database: URL) -> None:
    async with connected(database) as connection:
        version = connection.get_server_version().major
    finding = (await called("doctor", "--json", url=database)).findings()["server version"]
    assert finding["outcome"] == ("warning" if version == 14 else "ok")
    assert f"PostgreSQL {version}" in finding["evidence"]


async def test_a_standby_and_a_full_queue_and_no_connections_left() -> None:
    settings = {"max_notify_queue_pages": 64, "max_connections": 12}
    with EmbeddedServer(settings) as own:
        engine = create_async_engine(own.url, pool_size=9)
        finding = (await called("doctor", "--json", url=own.url)).findings()["connections"]
        assert finding["outcome"] == "ok"
        held = [await engine.connect() for _ in range(7)]
        finding = (await called("doctor", "--json", url=own.url)).findings()["connections"]
        assert (finding["outcome"], "max_connections" in finding["fix"]) == ("warning", True)
        for connection in held:
            await connection.close()
        async with queue_held(engine), engine.connect() as connection:
            filler = "SELECT count(pg_notify('elsewhere', repeat('x', 7900) || i))"
            await connection.execute(text(f"{filler} FROM generate_series(1, 60) AS i"))
            await connection.commit()
            result = await called("doctor", "--json", url=own.url)
            finding = result.findings()["notification queue"]
            assert (result.code, finding["outcome"]) == (1, "failed")
            assert "the oldest transaction: process" in finding["evidence"]
        await engine.dispose()
        with standby_of(own) as standby:
            findings = (await called("doctor", "--json", url=standby.url)).findings()
            assert findings["primary"]["outcome"] == "failed"
            assert "listen_url" in findings["primary"]["fix"]
            assert findings["LISTEN"]["outcome"] == "failed"


@pytest.mark.skipif(
    shutil.which("pgbouncer") is None and "CI" not in os.environ, reason="needs pgbouncer"
)
async def test_a_pooler_in_between(
    database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_LIMIT", 0.5)
    async with pgbouncer(database, tmp_path, "transaction") as pooled:
        findings = (await called("doctor", "--json", url=pooled)).findings()
        assert findings["no pooler"]["outcome"] == "warning"
        assert "the connection says process" in findings["no pooler"]["evidence"]


async def test_notifications_that_do_not_arrive(
    database: URL, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_LIMIT", 0.3)
    proxy.deaf = True
    result = await called("doctor", "--json", url=proxy.url)
    finding = result.findings()["LISTEN"]
    assert (result.code, finding["outcome"]) == (1, "failed")
    assert "nothing arrived within 0.3 s" in finding["evidence"]


async def test_a_database_without_the_schema(empty: URL) -> None:
    result = await called("doctor", "--json", url=empty)
    findings = result.findings()
    assert result.code == 1
    assert findings["schema rowbell"]["outcome"] == "failed"
    assert "rowbell install" in findings["schema rowbell"]["fix"]
    assert findings["tables"]["outcome"] == "warning"


FAULTS = {
    "a right that was given": (
        "GRANT INSERT ON rowbell.registration TO PUBLIC",
        "objects and rights",
        "registration has other privileges",
    ),
    "a function that was changed": (
        "ALTER FUNCTION rowbell.notify(oid, bigint[], bigint[]) RESET ALL",
        "objects and rights",
        "function notify() differs",
    ),
    "a trigger that was disabled": (
        "ALTER TABLE orders DISABLE TRIGGER rowbell_update",
        "table public.orders",
        "disabled",
    ),
    "a trigger that was dropped": (
        "DROP TRIGGER rowbell_delete ON orders",
        "table public.orders",
        "missing",
    ),
    "a column that was renamed": (
        "ALTER TABLE orders RENAME COLUMN id TO number",
        "table public.orders",
        "outdated",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_was_changed_by_hand(database: URL, name: str) -> None:
    statement, check, evidence = FAULTS[name]
    await execute(database, statement)
    result = await called("doctor", "--json", url=database)
    finding = result.findings()[check]
    assert (result.code, finding["outcome"]) == (1, "failed")
    assert evidence in finding["evidence"]
    assert finding["fix"]


async def test_a_stranger_who_may_create_in_the_schema(database: URL) -> None:
    async with role(database, "GRANT CREATE ON SCHEMA rowbell TO {role}") as stranger:
        finding = (await called("doctor", "--json", url=database)).findings()["trust"]
        assert finding["outcome"] == "failed"
        assert str(stranger.username) in finding["evidence"]


async def test_a_condition_that_calls_code_of_others(database: URL) -> None:
    await execute(
        database,
        "CREATE FUNCTION mine(int) RETURNS bool LANGUAGE sql AS 'SELECT true'",
        "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'",
        "DROP TRIGGER rowbell_update ON orders",
        "CREATE TRIGGER rowbell_update AFTER UPDATE ON orders FOR EACH ROW"
        " WHEN (mine(NEW.id)) EXECUTE FUNCTION nothing()",
    )
    finding = (await called("doctor", "--json", url=database)).findings()["trust"]
    assert finding["outcome"] == "failed"
    assert "uses function public.mine(integer)" in finding["evidence"]


async def test_code_of_others_never_runs_with_the_doctors_rights(database: URL) -> None:
    """Operators that fit better than PostgreSQL's own, and functions with names of its own."""
    await execute(
        database,
        "CREATE SCHEMA trap",
        "CREATE TABLE trap.trapped (what text)",
        "CREATE FUNCTION trap.add(text, regclass) RETURNS text LANGUAGE sql"
        " AS $$ INSERT INTO trap.trapped VALUES ('operator') RETURNING what $$",
        "CREATE OPERATOR trap.|| (FUNCTION = trap.add, LEFTARG = text, RIGHTARG = regclass)",
        "CREATE FUNCTION trap.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql"
        " AS $$ INSERT INTO trap.trapped VALUES ('function') RETURNING 1.0::float8 $$",
        "CREATE FUNCTION trap.equals(oid, regtype) RETURNS bool LANGUAGE sql"
        " AS $$ INSERT INTO trap.trapped VALUES ('hstore') RETURNING true $$",
        "CREATE OPERATOR trap.= (FUNCTION = trap.equals, LEFTARG = oid, RIGHTARG = regtype)",
        f'ALTER DATABASE "{database.database}" SET search_path = trap, public, pg_catalog',
    )
    result = await called("doctor", "--json", url=database)
    assert result.code == 0, result
    assert (await called("status", "--json", url=database)).code == 0
    assert (await called("status", "nosuch", url=database)).code == 2
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(*) FROM trap.trapped") == 0


HIDDEN = {
    "the schema": "REVOKE USAGE ON SCHEMA rowbell FROM PUBLIC",
    "registrations": "REVOKE SELECT ON rowbell.registration FROM PUBLIC",
    "activity": "REVOKE SELECT ON pg_stat_activity FROM PUBLIC",
}


@pytest.mark.parametrize("name", HIDDEN)
async def test_what_a_role_may_not_see_is_unknown_and_the_other_checks_are_made(
    database: URL, name: str
) -> None:
    async with role(database) as stranger:
        await execute(database, HIDDEN[name])
        findings = (await called("doctor", "--json", url=stranger)).findings()
        await execute(database, "GRANT SELECT ON pg_stat_activity TO PUBLIC")
    assert "unknown" in {finding["outcome"] for finding in findings.values()}
    assert findings["LISTEN"]["outcome"] == "ok"
    assert {"transactions", "long transactions"} & set(findings)


async def test_a_table_of_rowbells_that_is_broken_is_one_failed_check(database: URL) -> None:
    await execute(database, "ALTER TABLE rowbell.listener RENAME TO another")
    result = await called("doctor", "--json", url=database)
    assert result.code == 1
    assert result.findings()["objects and rights"]["outcome"] == "failed"
    assert result.findings()["long transactions"]["outcome"] == "ok"


async def test_a_role_that_may_not_register(database: URL) -> None:
    register = "rowbell.register(oid[], bytea[], text[], oid[], bigint[], text[], bigint)"
    await execute(
        database,
        f"GRANT EXECUTE ON FUNCTION {register} TO pg_monitor",
        f"REVOKE EXECUTE ON FUNCTION {register} FROM PUBLIC",
    )
    async with role(database) as stranger:
        finding = (await called("doctor", "--json", url=stranger)).findings()["rights"]
        assert finding["outcome"] == "failed"
        assert (
            f"GRANT EXECUTE ON FUNCTION rowbell.register TO {stranger.username}" in finding["fix"]
        )


async def test_registrations_that_nobody_listens_for(database: URL) -> None:
    await execute(
        database, "INSERT INTO rowbell.registration VALUES ('orders'::regclass, 1, 999, NULL)"
    )
    finding = (await called("doctor", "--json", url=database)).findings()["registrations"]
    assert finding["outcome"] == "warning"
    assert "1 without a session" in finding["evidence"]


async def test_who_listens(orders: AsyncEngine, database: URL) -> None:
    async with RowWatcher(orders, mode="listen", timing=QUICK) as watcher:
        wait = await armed_wait(watcher)
        finding = (await called("doctor", "--json", url=database)).findings()["listeners"]
        assert "(rowbell" in finding["evidence"]
        assert "1 rows" in finding["evidence"]
        wait.cancel()
        await asyncio.wait({wait})


async def test_a_long_transaction_that_has_written(
    orders: AsyncEngine, database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_LONG", 0)
    async with orders.connect() as writer:
        await writer.execute(text("UPDATE orders SET n = 1 WHERE id = 1"))
        finding = (await called("doctor", "--json", url=database)).findings()["long transactions"]
        assert finding["outcome"] == "warning"
        assert "process" in finding["evidence"]


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell


class Base(DeclarativeBase):
    pass


@rowbell.watched(columns=["status"])
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


@rowbell.watched
class Ghost(Base):
    __tablename__ = "ghosts"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


async def test_what_models_declare_is_compared(
    database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doctored_shop.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    result = await called("doctor", "--json", "--models", "doctored_shop:Base", url=database)
    findings = result.findings()
    assert result.code == 1
    assert "columns all where the model declares status" in findings["table orders"]["evidence"]
    assert "does not exist" in findings["table ghosts"]["evidence"]


def test_no_server_is_one_line_and_exit_code_2() -> None:
    result = call("doctor", url="postgresql://someone:geheim@127.0.0.1:1/none")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert "cannot be reached" in result.err
    assert "geheim" not in result.err


async def test_installing_repairs_what_the_doctor_has_found(
    engine: AsyncEngine, database: URL
) -> None:
    await execute(database, "DROP TRIGGER rowbell_delete ON orders")
    async with engine.begin() as connection:
        await connection.run_sync(install_triggers, Order)
    assert (await called("doctor", url=database)).code == 0
