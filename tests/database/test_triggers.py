"""What is installed in the database: idempotent, quoted, harmless to writers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

import rowbell
from rowbell import (
    LockTimeoutError,
    Reason,
    RowWatcher,
    Timing,
    TriggerError,
    TriggerState,
    install_triggers,
    remove_triggers,
    trigger_status,
)
from rowbell._watch.database.tables import is_declared
from rowbell._watch.database.triggers import ForEach, TableTriggers
from rowbell._watch.values.key_hash import KeyColumn
from support.models import Animal, Dog, Odd, Order, Plain
from support.observed import execute
from support.roles import register
from support.waits import armed_wait

QUICK = Timing(heartbeat=0.1, narrow=0.1)


async def states(engine: AsyncEngine, *models: Any) -> list[TriggerState]:
    async with engine.connect() as connection:
        found = await connection.run_sync(trigger_status, *models)
    return [status.state for status in found]


async def run(engine: AsyncEngine, function: Any, *models: Any, **more: Any) -> list[str]:
    async with engine.begin() as connection:
        return await connection.run_sync(lambda c: function(c, *models, **more))


async def woken(engine: AsyncEngine, model: type[Any], key: Any, *statements: str) -> Any:
    """A wait that only a notification can end, ended by those statements."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(model, key, interval=60, timeout=20))
        await watcher.reached(lambda now: now.armed == 1 or now.reason is not None)
        assert watcher.statistics().reason is None
        async with engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        return await wait


async def test_create_all_installs_the_triggers_of_watched_models(engine: AsyncEngine) -> None:
    assert await states(engine, Order, Dog, Plain) == [
        TriggerState.INSTALLED,
        TriggerState.INSTALLED,
        TriggerState.INSTALLED,
        TriggerState.MISSING,
    ]


@pytest.mark.fault("B19")
async def test_installing_again_executes_nothing(engine: AsyncEngine) -> None:
    """Not even where a reader of the table would make any DDL wait."""
    async with engine.connect() as reader:
        await reader.execute(text("SELECT * FROM orders"))
        assert await run(engine, install_triggers, Order, Animal, Odd) == []


async def test_what_was_removed_is_missing_and_comes_back(engine: AsyncEngine) -> None:
    assert await run(engine, remove_triggers, Order)
    assert await run(engine, remove_triggers, Order) == []
    assert await states(engine, Order, Animal) == [TriggerState.MISSING, TriggerState.INSTALLED]
    assert await run(engine, install_triggers, Order)
    assert await states(engine, Order) == [TriggerState.INSTALLED]


async def test_a_function_goes_with_the_last_table_that_uses_it(engine: AsyncEngine) -> None:
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'changed\\_%'"
    async with engine.connect() as connection:
        before = await connection.scalar(text(functions))
        for table in rowbell_tables():
            await connection.run_sync(remove_triggers, table)
        assert (before, await connection.scalar(text(functions))) == (3, 0)


def rowbell_tables() -> list[Table]:
    return [table for table in Order.metadata.tables.values() if is_declared(table)]


async def test_other_options_are_outdated_until_installed(engine: AsyncEngine) -> None:
    table = Table("orders", MetaData(), Column("id", Integer, primary_key=True))

    @rowbell.watched(for_each="row")
    class ByRow(DeclarativeBaseOf, table=table):
        pass

    assert await states(engine, ByRow) == [TriggerState.OUTDATED]
    await run(engine, install_triggers, ByRow)
    assert await states(engine, ByRow) == [TriggerState.INSTALLED]
    assert await states(engine, Order) == [TriggerState.OUTDATED]
    await execute(engine, insert(Order).values(id=1))
    row = await woken(engine, Order, 1, "UPDATE orders SET n = 0", "UPDATE orders SET n = 1")
    assert row.n == 1


class DeclarativeBaseOf:
    """Maps a subclass imperatively to a table."""

    def __init_subclass__(cls, table: Table) -> None:
        from sqlalchemy.orm import registry

        registry().map_imperatively(cls, table)


async def test_a_disabled_trigger_is_said_to_be_and_stays_disabled(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE orders DISABLE TRIGGER rowbell_delete"))
        await connection.execute(insert(Order).values(id=1))
    assert await states(engine, Order) == [TriggerState.DISABLED]
    assert await run(engine, install_triggers, Order) == []
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, timeout=20))
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_DISABLED)
        wait.cancel()
        await asyncio.wait([wait])


@pytest.mark.fault("B19")
async def test_a_lock_that_is_not_to_be_had_is_an_error_and_nothing_is_changed(
    engine: AsyncEngine,
) -> None:
    async with engine.connect() as writer:
        await writer.execute(text("LOCK TABLE plain IN ROW EXCLUSIVE MODE"))
        with pytest.raises(
            LockTimeoutError, match=r'SHARE ROW EXCLUSIVE lock on "public"\."plain" within 50ms'
        ):
            await run(engine, install_triggers, Plain, lock_timeout="50ms")
    assert await states(engine, Plain) == [TriggerState.MISSING]


async def test_the_callers_lock_timeout_is_back_after_installing(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL lock_timeout = '1234ms'"))
        await connection.run_sync(install_triggers, Plain)
        assert await connection.scalar(text("SHOW lock_timeout")) == "1234ms"


async def test_autocommit_is_refused_before_anything_is_done(engine: AsyncEngine) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        with pytest.raises(TriggerError, match="AUTOCOMMIT"):
            await connection.run_sync(install_triggers, Plain)
    assert await states(engine, Plain) == [TriggerState.MISSING]


@pytest.mark.parametrize(
    ("ddl", "table", "message"),
    [
        ("SELECT 1", "nowhere", "no such table"),
        ("CREATE VIEW v AS SELECT 1 AS id", "v", "only ordinary and partitioned"),
        ("CREATE TABLE keyless (n int)", "keyless", "no primary key"),
        (
            (
                "CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id); "
                "CREATE TABLE part PARTITION OF whole DEFAULT"
            ),
            "part",
            "it is a partition",
        ),
    ],
)
async def test_tables_that_cannot_ring_are_refused(
    engine: AsyncEngine, ddl: str, table: str, message: str
) -> None:
    key = [] if table == "keyless" else [Column("id", Integer, primary_key=True)]
    async with engine.begin() as connection:
        for statement in ddl.split("; "):
            await connection.execute(text(statement))
        with pytest.raises(TriggerError, match=message):
            await connection.run_sync(install_triggers, Table(table, MetaData(), *key))


NAMES = ["user", "Order item", 'say "hi"', "x" * 63, "naïve", "percent %s", "a:b", "n", "$rowbell$"]


@pytest.mark.fault("B25")
@pytest.mark.parametrize("name", NAMES)
async def test_any_name_will_do(engine: AsyncEngine, name: str) -> None:
    """For a schema, a table, its key and a watched column alike."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched
    class Named(Base):
        __tablename__ = name
        __table_args__ = {"schema": f"s{name}"[:63]}
        id: Mapped[int] = mapped_column(name, Integer, primary_key=True)
        value: Mapped[str] = mapped_column(f"v{name}"[:63], Text)

    table = Named.__table__
    async with engine.begin() as connection:
        quote = connection.dialect.identifier_preparer.quote
        await connection.exec_driver_sql(f"CREATE SCHEMA {quote(str(table.schema))}")
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Named).values(id=1, value="a"))
    await _changed_by(engine, Named, "value")


async def _changed_by(engine: AsyncEngine, model: type[Any], column: str) -> None:
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, model, 1, columns=[column])
        await execute(engine, model.__table__.update().values({column_of(model, column): "b"}))
        assert getattr(await wait, column) == "b"


def column_of(model: type[Any], name: str) -> Any:
    return getattr(model, name).property.columns[0]


async def test_a_name_longer_than_postgresql_allows_is_refused_by_postgresql_alone() -> None:
    """SQLAlchemy refuses it before rowbell sees it; rowbell's own names are short always."""
    triggers = TableTriggers(None, "t" * 200, (KeyColumn("k" * 200),), ForEach.STATEMENT)
    assert len(triggers.function_name) < 63


@pytest.mark.fault("B25")
async def test_the_same_table_name_in_two_schemas_wakes_only_its_own(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for schema in ("one", "two"):
            await connection.execute(text(f"CREATE SCHEMA {schema}"))
        models = {schema: _twin(schema) for schema in ("one", "two")}
        for model in models.values():
            await connection.run_sync(model.metadata.create_all)
            await connection.execute(insert(model).values(id=1, n=0))
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        waits = {
            schema: asyncio.create_task(watcher.wait_for_change(model, 1, interval=60, timeout=20))
            for schema, model in models.items()
        }
        await watcher.reached(lambda now: now.armed == 2)
        rereads = watcher.statistics().rereads
        await execute(engine, "UPDATE two.twins SET n = 1")
        assert (await waits["two"]).n == 1
        assert watcher.statistics().rereads == rereads + 1
        waits["one"].cancel()
        await asyncio.wait(waits.values())


def _twin(schema: str | None) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched
    class Twin(Base):
        __tablename__ = "twins"
        __table_args__ = {"schema": schema}
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        n: Mapped[int]

    return Twin


@pytest.mark.fault("B44")
async def test_schema_translate_map_leads_to_the_table(engine: AsyncEngine) -> None:
    model = _twin(None)
    translated = engine.execution_options(schema_translate_map={None: "tenant"})
    async with translated.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.run_sync(model.metadata.create_all)
        await connection.execute(insert(model).values(id=1, n=0))
    assert (await woken(translated, model, 1, "UPDATE tenant.twins SET n = 1")).n == 1


async def partitioned(engine: AsyncEngine) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __tablename__ = "events"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    rowbell.watched(Event)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for name, low, high in (("low", 0, 100), ("high", 100, 200)):
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF events FOR VALUES FROM ({low}) TO ({high})")
            )
        await connection.execute(insert(Event).values(id=1, n=0))
    return Event


@pytest.mark.fault("B24")
@pytest.mark.parametrize("table", ["events", "low"])
async def test_a_partitioned_table_rings_however_it_is_written(
    engine: AsyncEngine, table: str
) -> None:
    """Partitions created after the triggers ring as well."""
    event = await partitioned(engine)
    assert (await woken(engine, event, 1, f"UPDATE {table} SET n = 1")).n == 1


@pytest.mark.fault("B24")
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM low", "TRUNCATE events", "UPDATE events SET id = 150"],
    ids=["delete", "truncate", "move"],
)
async def test_a_row_that_leaves_a_partitioned_table_was_deleted(
    engine: AsyncEngine, statement: str
) -> None:
    with pytest.raises(rowbell.NotFoundError, match="was deleted"):
        await woken(engine, await partitioned(engine), 1, statement)


async def test_a_writer_needs_no_rights_beyond_those_on_the_table(
    engine: AsyncEngine, database: URL
) -> None:
    async with as_role(engine, database, "GRANT SELECT, UPDATE ON orders TO") as connection:
        await connection.execute(text("UPDATE orders SET n = 1"))


async def test_who_may_not_read_a_table_is_told_nothing_of_it(
    engine: AsyncEngine, database: URL
) -> None:
    async with as_role(engine, database, "GRANT UPDATE ON orders TO") as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("SELECT rowbell.open_listener()")
        assert await register(driver, "orders", 1) == "not_permitted"
    async with engine.connect() as connection:
        registered = text("SELECT count(*) FROM rowbell.registration")
        assert await connection.scalar(registered) == 0


class as_role:  # reads as a function
    """A connection of a role that has been granted just one thing."""

    def __init__(self, engine: AsyncEngine, database: URL, grant: str) -> None:
        self.engine, self.grant = engine, grant
        self.role = f"role_of_{database.database}"
        self.as_role = create_async_engine(database.set(username=self.role), poolclass=NullPool)

    async def __aenter__(self) -> AsyncConnection:
        async with self.engine.begin() as connection:
            await connection.execute(text(f"CREATE ROLE {self.role} LOGIN"))
            await connection.execute(text(f"{self.grant} {self.role}"))
            await connection.execute(insert(Order).values(id=1))
        self.connection = await self.as_role.connect()
        return self.connection

    async def __aexit__(self, *_: object) -> None:
        await self.connection.commit()
        await self.connection.close()
        async with self.engine.begin() as connection:
            await connection.execute(text(f"DROP OWNED BY {self.role}"))
            await connection.execute(text(f"DROP ROLE {self.role}"))


@pytest.mark.fault("B28")
@pytest.mark.parametrize(
    "sabotage",
    [
        "DROP TABLE rowbell.registration",
        "DROP FUNCTION rowbell.notify",
        "DROP SEQUENCE rowbell.has_registrations",
        "DROP MATERIALIZED VIEW rowbell.channel_secret",
        "ALTER SCHEMA rowbell RENAME TO another",
        "ALTER TABLE orders RENAME COLUMN id TO number",
    ],
)
async def test_a_writer_never_fails_because_of_us(engine: AsyncEngine, sabotage: str) -> None:
    """Whatever is broken in rowbell's own objects, the write commits, with a WARNING."""
    warnings: list[str] = []
    async with engine.connect() as connection:
        await connection.execute(insert(Order).values(id=1))
        await _register_everything(connection)
        await connection.execute(text(sabotage))
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_log_listener(lambda _, message: warnings.append(str(message)))
        await connection.execute(text("UPDATE orders SET n = 1"))
        await connection.commit()
        assert await connection.scalar(text("SELECT n FROM orders")) == 1
        await connection.rollback()
        while not warnings:
            await connection.execute(text("SELECT 1"))
    assert "rowbell" in warnings[0]


async def _register_everything(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT setval('rowbell.has_registrations', 1)"))
    await connection.execute(
        text(
            "INSERT INTO rowbell.registration SELECT 'orders'::regclass,"
            " hash_record_extended(ROW(id), 0), 1 FROM orders"
        )
    )


@pytest.mark.fault("B20")
async def test_a_statement_that_changes_very_many_watched_rows_is_one_notification(
    engine: AsyncEngine,
) -> None:
    """Keys come in payloads below the limit; beyond a thousand the table is named alone."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), [{"id": i} for i in range(1, 6001)])
        await _register_everything(connection)
    heard: list[str] = []
    listener = create_async_engine(engine.url, poolclass=NullPool)
    async with listener.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        channel = await connection.scalar(text("SELECT rowbell.channel(1)"))
        await connection.rollback()
        await driver.add_listener(channel, lambda *event: heard.append(event[3]))
        for limit in (300, 900, 6000):
            heard.clear()
            await execute(engine, f"UPDATE orders SET n = n + 1 WHERE id <= {limit}")
            await driver.fetch("SELECT 1")
            if limit < 6000:
                assert len(heard) == -(-limit // 350)
                keys = {key for payload in heard for key in payload.split(":")[2].split(",")}
                assert len(keys) == limit
            else:
                assert [payload.split(":")[2] for payload in heard] == ["*"]
    await listener.dispose()


async def test_replicated_changes_ring_where_they_were_asked_for(engine: AsyncEngine) -> None:
    """As an apply worker does it: session_replication_role is replica."""

    class Base(DeclarativeBase):
        pass

    @rowbell.watched(replicated=True)
    class Replicated(Base):
        __tablename__ = "replicated"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Replicated).values(id=1, n=0))
    assert await states(engine, Replicated) == [TriggerState.INSTALLED]
    row = await woken(
        engine,
        Replicated,
        1,
        "SET LOCAL session_replication_role = replica",
        "UPDATE replicated SET n = 1",
    )
    assert row.n == 1


async def test_triggers_for_another_key_are_never_trusted(engine: AsyncEngine) -> None:
    """A model whose primary key is not the table's could wait for hashes that nobody sends."""

    class Base(DeclarativeBase):
        pass

    class ByStatus(Base):
        __tablename__ = "orders"
        status: Mapped[str] = mapped_column(primary_key=True)

    await execute(engine, insert(Order).values(id=1))
    async with RowWatcher(engine, timing=QUICK) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(ByStatus, "new", timeout=20))
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_OUTDATED)
        assert watcher.statistics().armed == 0
        wait.cancel()
        await asyncio.wait([wait])
