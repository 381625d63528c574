"""Triggers in migrations: upgrade, downgrade and upgrade again, online and as SQL."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import URL, Connection, MetaData, String, Table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

import rowbell
import rowbell.alembic
from rowbell import (
    InvalidArgumentError,
    RowWatcher,
    Timing,
    TriggerError,
    TriggerState,
    create_database,
    drop_database,
    trigger_status,
    watched,
)
from rowbell._watch.database.tables import TriggerOptions, declare
from rowbell.alembic import CreateRowTriggersOp, DropRowTriggersOp
from support.models import Base, Order
from support.observed import execute
from support.paths import ROOT
from support.waits import armed_wait, run

rowbell.alembic.register()
rowbell.alembic.register()  # the second call does nothing


@pytest.fixture
def empty(server: URL, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty database, and the example app's migrations for it."""
    name = f"rowbell_migrated_{uuid4().hex}"
    asyncio.run(create_database(name, server_url=server))
    url = server.set(database=name)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    yield url
    asyncio.run(drop_database(name, server_url=server))


def in_database(url: URL, function: Any) -> Any:
    async def call() -> Any:
        engine = create_async_engine(url, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(function)
        finally:
            await engine.dispose()

    return asyncio.run(call())


def state(connection: Connection) -> TriggerState:
    table = Table("orders", MetaData(), autoload_with=connection)
    declare(table, TriggerOptions(inserts=True))  # as the example app does
    return trigger_status(connection, table)[0].state


def migrate(revision: str, **more: Any) -> str:
    config = Config(ROOT / "alembic.ini", output_buffer=(output := io.StringIO()))
    (command.downgrade if revision in {"base", "0002:base"} else command.upgrade)(
        config, revision, **more
    )
    return output.getvalue()


@pytest.mark.fault("B30")
def test_a_migration_creates_the_table_with_its_triggers_and_takes_both_back(empty: URL) -> None:
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'changed\\_%'"
    for _ in range(2):
        migrate("head")
        assert in_database(empty, state) is TriggerState.INSTALLED
        migrate("base")
        assert in_database(empty, lambda c: c.scalar(text(left))) == 0


def test_the_migrations_of_the_example_app_are_what_its_models_declare(empty: URL) -> None:
    migrate("head")
    command.check(Config(ROOT / "alembic.ini", stdout=io.StringIO()))


def test_the_sql_of_a_migration_does_the_same(empty: URL) -> None:
    """The output of ``alembic upgrade head --sql``, executed by hand."""
    script = migrate("head", sql=True)
    _run(empty, script)
    assert in_database(empty, state) is TriggerState.INSTALLED
    _run(empty, script.split("CREATE TABLE alembic_version")[0])
    _run(empty, migrate("0002:base", sql=True))
    assert in_database(empty, lambda c: c.scalar(text("SELECT to_regclass('orders')"))) is None


def _run(url: URL, script: str) -> None:
    async def run() -> None:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute(script)
        await engine.dispose()

    asyncio.run(run())


def operations(connection: Connection, **options: Any) -> Any:
    return Operations(MigrationContext.configure(connection, opts=options))


def test_operations_know_schemas_and_partitions(empty: URL) -> None:
    def check(connection: Connection) -> None:
        connection.execute(text('CREATE SCHEMA "My app"'))
        connection.execute(
            text(
                'CREATE TABLE "My app"."Big One" (b int, a text, PRIMARY KEY (b, a))'
                " PARTITION BY RANGE (b)"
            )
        )
        op = operations(connection)
        op.create_row_triggers("Big One", schema="My app", key=["a", "b"])
        op.create_row_triggers("Big One", schema="My app")
        rows = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rowbell\\_%'"
        assert connection.scalar(text(rows)) == 3
        op.drop_row_triggers("Big One", schema="My app")
        assert connection.scalar(text(rows)) == 0

    in_database(empty, check)


def test_what_cannot_be_installed_is_refused(empty: URL) -> None:
    def check(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE t (id int PRIMARY KEY)"))
        op = operations(connection)
        with pytest.raises(TriggerError, match="the table does not exist"):
            op.create_row_triggers("nowhere")
        with pytest.raises(TriggerError, match=r"key=\['name'\] is not its primary key \(id\)"):
            op.create_row_triggers("t", key=["name"])
        with pytest.raises(ValueError, match="column"):
            op.create_row_triggers("t", for_each="column")

    in_database(empty, check)
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": io.StringIO()}
    )
    with pytest.raises(TriggerError, match="give the primary key"):
        Operations(context).create_row_triggers("t")  # type: ignore[attr-defined]


@pytest.mark.fault("B30")
def test_each_operation_is_the_others_reverse() -> None:
    create = CreateRowTriggersOp("t", key=["id"], schema="s", replicated=True)
    drop = create.reverse()
    assert isinstance(drop, DropRowTriggersOp)
    again = drop.reverse()
    assert isinstance(again, CreateRowTriggersOp)
    assert again.arguments() == create.arguments()
    assert again.to_diff_tuple() == ("CreateRowTriggersOp", "s", "t")


class Shop(DeclarativeBase):
    pass


@watched(columns=["state"], for_each="row")
class Article(Shop):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


def produced(connection: Connection, **options: Any) -> Any:
    """The operations that ``--autogenerate`` would write."""
    context = MigrationContext.configure(
        connection, opts={"target_metadata": Shop.metadata, **options}
    )
    return produce_migrations(context, Shop.metadata)


def test_autogenerate_writes_a_table_of_a_watched_model_as_any_other(empty: URL) -> None:
    """The migration can be executed. It contains nothing of rowbell's."""
    script = in_database(empty, produced)
    code = render_python_code(script.upgrade_ops)
    assert "op.create_table('articles'" in code
    assert "info" not in code

    def execute(connection: Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        for line in code.splitlines():
            assert "rowbell" not in line
        exec(  # noqa: S102  # Alembic does the same
            "import sqlalchemy as sa\n" + "\n".join(line.strip() for line in code.splitlines()),
            {"op": operations},
        )

    in_database(empty, execute)
    assert in_database(empty, lambda c: c.scalar(text("SELECT count(*) FROM articles"))) == 0


def test_autogenerate_leaves_the_schema_of_rowbell_alone(empty: URL) -> None:
    """Also if autogenerate inspects all schemas."""
    rowbell.alembic.register()
    in_database(empty, Shop.metadata.create_all)
    in_database(
        empty, lambda c: c.execute(text("CREATE SCHEMA mine CREATE TABLE left_over (id int)"))
    )
    script = in_database(empty, lambda c: produced(c, include_schemas=True))
    dropped = [(op.schema, op.table_name) for op in script.upgrade_ops.ops]
    assert dropped == [("mine", "left_over")]


def test_copies_of_a_table_know_what_was_declared(empty: URL) -> None:
    """``to_metadata()`` copies it. Applications use that to create the schemas of tenants."""
    other = MetaData()
    Shop.metadata.tables["articles"].to_metadata(other, schema="tenant")

    def create(connection: Connection) -> Any:
        connection.execute(text("CREATE SCHEMA tenant"))
        other.create_all(connection)
        return rowbell.trigger_status(connection, other.tables["tenant.articles"])

    [status] = in_database(empty, create)
    assert status.state == "installed"


def test_an_invalid_form_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match="for_each must be 'row' or 'statement'"):
        CreateRowTriggersOp("orders", for_each="rows")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("rowbell.alembic", "alembic", "alembic"),
        ("rowbell.fastapi", "fastapi", "fastapi"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module: str, package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import {module}"
    ran = subprocess.run(  # noqa: S603  # a constant
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert f"pip install rowbell[{extra}]" in ran.stderr.splitlines()[-1]


def test_a_declared_column_is_altered_between_drop_and_create(empty: URL) -> None:
    """The docs show this. Otherwise PostgreSQL raises an error. A running wait misses no change."""
    in_database(empty, Shop.metadata.create_all)
    in_database(empty, lambda c: c.execute(text("INSERT INTO articles VALUES (1, 'new')")))
    rowbell.alembic.register()
    named: dict[str, Any] = {"key": ["id"], "columns": ["state"], "for_each": "row"}

    def alter(connection: Connection) -> None:
        operations: Any = Operations(MigrationContext.configure(connection))
        operations.drop_row_triggers("articles", **named)
        operations.alter_column("articles", "state", type_=String(20))
        operations.create_row_triggers("articles", **named)

    async def waited() -> Any:
        engine = create_async_engine(empty)
        timing = Timing(heartbeat=0.1)
        async with RowWatcher(engine, mode="listen", recheck=None, timing=timing) as watcher:
            wait = await armed_wait(watcher, Article, 1)
            async with engine.begin() as connection:
                await connection.run_sync(alter)
            await execute(engine, "UPDATE articles SET state = 'sold'")
            article = await wait
        await engine.dispose()
        return article

    refused = text("ALTER TABLE articles ALTER state TYPE varchar(20)")
    with pytest.raises(DBAPIError, match=r"Call op.drop_row_triggers\(\).*articles depends on"):
        in_database(empty, lambda c: c.execute(refused))
    assert asyncio.run(waited()).state == "sold"


# Alembic 1.13 warns of each generated column, because the server rewrites its expression.
@pytest.mark.filterwarnings("ignore:Computed default")
@pytest.mark.fault("B30")
async def test_autogenerate_finds_nothing_to_do_and_leaves_others_triggers_alone(
    engine: AsyncEngine, database: URL
) -> None:
    await execute(
        database,
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER audit AFTER UPDATE ON orders EXECUTE FUNCTION audit()",
    )

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: (kind, name) != ("schema", "rowbell"),
            },
        )
        found: list[Any] = compare_metadata(context, Base.metadata)
        return [d for d in found if "rowbell" in repr(d)]

    async with engine.begin() as connection:
        assert await connection.run_sync(differences) == []
    await run(engine, rowbell.remove_triggers, Order)
    await run(engine, rowbell.install_triggers, Order)
    async with engine.connect() as connection:
        audits = text("SELECT count(*) FROM pg_trigger WHERE tgname = 'audit'")
        assert await connection.scalar(audits) == 1
