"""``create_database``, ``drop_database``, ``cleanup_tables`` and ``rolled_back_session``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import (
    URL,
    Column,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    Sequence,
    Table,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import (
    DatabaseStateError,
    InvalidArgumentError,
    LockTimeoutError,
    cleanup_tables,
    create_database,
    drop_database,
)
from rowbell.testing import rolled_back_session
from support.models import Base, Item, Order, Plain
from support.observed import execute, statements


@pytest.fixture
async def name(server: URL) -> AsyncIterator[str]:
    """A name for a database. It is dropped after the test."""
    name = f'rowbell "Odd" name; -- {uuid4()}'
    yield name
    await drop_database(name, server_url=server, missing_ok=True)


async def answer(url: URL, statement: str) -> Any:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        result = await connection.scalar(text(statement))
    await engine.dispose()
    return result


async def test_a_name_is_taken_literally(server: URL, name: str) -> None:
    await create_database(name, server_url=server)
    assert await answer(server.set(database=name), "SELECT current_database()") == name
    await drop_database(name, server_url=server)
    with pytest.raises(DatabaseStateError, match="is missing"):
        await drop_database(name, server_url=server)
    await drop_database(name, server_url=server, missing_ok=True)


async def test_the_server_may_be_given_as_a_text_for_any_driver(server: URL, name: str) -> None:
    plain = server.set(drivername="postgresql").render_as_string(hide_password=False)
    await create_database(name, server_url=plain)
    await drop_database(name, server_url=plain)


async def test_an_existing_database_is_an_error_or_accepted(server: URL, name: str) -> None:
    await create_database(name, server_url=server)
    await execute(server.set(database=name), "CREATE TABLE kept ()")
    with pytest.raises(DatabaseStateError, match="exists: drop it first") as caught:
        await create_database(name, server_url=server)
    assert (caught.value.database, caught.value.state) == (name, "exists")
    await create_database(name, server_url=server, exist_ok=True)
    assert await answer(server.set(database=name), "SELECT to_regclass('kept')::text") == "kept"


async def test_of_many_that_create_it_at_once_one_does(server: URL, name: str) -> None:
    create = [create_database(name, server_url=server) for _ in range(6)]
    outcomes = await asyncio.gather(*create, return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, DatabaseStateError) for outcome in outcomes) == 5
    accept = [create_database(name, server_url=server, exist_ok=True) for _ in range(6)]
    await asyncio.gather(*accept)


async def test_a_url_of_libpq_will_do_and_one_of_another_database_will_not(
    server: URL, name: str
) -> None:
    query = {"sslmode": "disable", "application_name": "tests"}  # asyncpg has other names
    libpq = server.set(drivername="postgresql+psycopg").update_query_dict(query)
    await create_database(name, server_url=libpq)
    assert await answer(server.set(database=name), "SELECT current_database()") == name
    with pytest.raises(InvalidArgumentError, match="a PostgreSQL URL, got 'sqlite'"):
        await create_database(name, server_url="sqlite:///secret.db")


async def test_a_template_is_cloned_with_all_that_it_contains(
    server: URL, database: URL, name: str
) -> None:
    assert database.database is not None
    await execute(database, "INSERT INTO plain VALUES (7, 1)")
    await create_database(name, server_url=server, template=database.database)
    assert await answer(server.set(database=name), "SELECT id FROM plain") == 7


async def test_a_template_that_is_missing_or_in_use_is_an_error_that_names_it(
    server: URL, database: URL, engine: AsyncEngine, name: str
) -> None:
    with pytest.raises(DatabaseStateError, match="'no such' is missing"):
        await create_database(name, server_url=server, template="no such")
    async with engine.connect():
        with pytest.raises(DatabaseStateError, match="is in use") as caught:
            await create_database(name, server_url=server, template=database.database)
    assert caught.value.database == database.database


async def test_dropping_ends_connections_unless_force_is_false(server: URL, name: str) -> None:
    await create_database(name, server_url=server)
    engine = create_async_engine(server.set(database=name), poolclass=NullPool)
    connection = await engine.connect()
    with pytest.raises(DatabaseStateError, match="is in use"):
        await drop_database(name, server_url=server, force=False)
    await drop_database(name, server_url=server)
    await connection.invalidate()
    await connection.close()
    with pytest.raises(DatabaseStateError, match="is missing"):
        await drop_database(name, server_url=server)


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 64, "ü" * 32])
async def test_a_name_that_postgresql_would_refuse_or_cut_is_refused_at_the_call(bad: str) -> None:
    """No statement is sent: there is no server at that address."""
    nowhere = "postgresql://127.0.0.1:1/postgres"
    with pytest.raises(InvalidArgumentError, match="1 to 63 bytes"):
        await create_database(bad, server_url=nowhere)
    with pytest.raises(InvalidArgumentError, match="1 to 63 bytes"):
        await drop_database(bad, server_url=nowhere)
    with pytest.raises(InvalidArgumentError, match="template must be"):
        await create_database("good", server_url=nowhere, template=bad)


# -- cleanup_tables


async def test_all_tables_are_emptied_and_their_sequences_restart(engine: AsyncEngine) -> None:
    """Also tables with unusual names, in other schemas, or hidden by a table of the same name."""
    metadata = MetaData()
    shadow = Table(
        "Shadow", metadata, Column("id", Integer, Identity(), primary_key=True), schema="app two"
    )
    Table(
        "child", metadata, Column("id", ForeignKey(shadow.c.id), primary_key=True), schema="app two"
    )
    hiding = Table("Shadow", MetaData(), Column("id", Integer, Identity(), primary_key=True))
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "app two"'))
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(hiding.create)
        await connection.execute(insert(hiding))
    async with AsyncSession(engine) as session:
        await session.execute(insert(shadow))
        await session.commit()
        await cleanup_tables(session, metadata)
        assert not session.in_transaction()
        assert (await session.execute(select(shadow))).all() == []
        assert len((await session.execute(select(hiding))).all()) == 1
        await session.execute(insert(shadow))
        assert await session.scalar(select(shadow.c.id)) == 1


async def test_it_is_one_statement_and_none_without_tables(engine: AsyncEngine) -> None:
    with statements(engine) as sent:
        async with AsyncSession(engine) as session:
            await cleanup_tables(session, Base)
            assert len([statement for statement in sent if statement.startswith("TRUNCATE")]) == 1
            sent.clear()
            await cleanup_tables(session, MetaData())
    assert not sent


async def test_the_schema_translate_map_is_followed(engine: AsyncEngine) -> None:
    metadata = MetaData(schema="logical")
    table = Table("plain", metadata, Column("id", Integer), Column("n", Integer))
    translated = engine.execution_options(schema_translate_map={"logical": "public"})
    async with AsyncSession(translated) as session:
        await session.execute(insert(table).values(id=1, n=1))
        await session.commit()
        await cleanup_tables(session, metadata)
        assert (await session.execute(select(table.c.id))).all() == []


async def test_what_the_session_has_left_undone_is_gone_too(engine: AsyncEngine) -> None:
    """Pending instances are not inserted after the TRUNCATE, and no stale instance is returned."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add(Order(id=1))
        await session.commit()
        session.add(Order(id=2))
        with session.no_autoflush:
            session.add(Item(id=1, order_id=99))
            await cleanup_tables(session, Base)
        assert await session.get(Order, 1) is None
        assert list(await session.scalars(select(Order))) == []


async def test_it_works_in_a_transaction_that_the_caller_has_begun(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(insert(Plain).values(id=1))
        await cleanup_tables(session, Base)
    async with AsyncSession(binds={Base: engine}) as session:
        assert list(await session.scalars(select(Plain))) == []
        await cleanup_tables(session, Base)


async def test_tables_that_refer_to_each_other_are_emptied(engine: AsyncEngine) -> None:
    metadata = MetaData()
    Table(
        "hen",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("egg", ForeignKey("egg.id")),
    )
    Table(
        "egg",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("hen", ForeignKey("hen.id")),
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await execute(
        engine,
        "INSERT INTO hen (id) VALUES (1)",
        "INSERT INTO egg (id, hen) VALUES (1, 1)",
        "UPDATE hen SET egg = 1",
    )
    async with AsyncSession(engine) as session:
        await cleanup_tables(session, metadata)
        for table in metadata.tables.values():
            assert (await session.execute(select(table))).all() == []


async def test_a_session_that_has_failed_can_clean_up(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Plain(id=1))
        await session.commit()
        session.add(Item(id=1, order_id=99))
        with pytest.raises(DBAPIError, match="ForeignKeyViolation"):
            await session.flush()
        await cleanup_tables(session, Base)
        with pytest.raises(DBAPIError, match="division by zero"):
            await session.execute(text("SELECT 1/0"))
        await cleanup_tables(session, Base)
        assert await session.get(Plain, 1) is None


async def test_a_transaction_that_was_left_open_is_an_error_and_not_a_hang(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine) as session, AsyncSession(engine) as forgotten:
        await forgotten.scalars(select(Plain))
        with pytest.raises(LockTimeoutError, match=r'ACCESS EXCLUSIVE lock on .*"plain"'):
            await cleanup_tables(session, Base, timeout="50ms")
        assert not session.in_transaction()
        await forgotten.rollback()
        await cleanup_tables(session, Base)
        assert await session.scalar(text("SHOW lock_timeout")) == "0"
        with pytest.raises(InvalidArgumentError, match="timeout must be"):
            await cleanup_tables(session, Base, timeout="soon")


# -- the session that rolls back


async def test_commits_and_rollbacks_stay_inside(engine: AsyncEngine) -> None:
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        session.add(Plain(id=1))
        await session.commit()
        session.add(Plain(id=2))
        await session.flush()
        await session.rollback()
        assert list(await session.scalars(select(Plain.id))) == [1]
        async with AsyncSession(engine) as other:
            assert list(await other.scalars(select(Plain.id))) == []
    with pytest.raises(LookupError):
        async with rolled_back_session(engine) as session:
            session.add(Plain(id=3))
            await session.commit()
            raise LookupError
    async with AsyncSession(engine) as other:
        assert list(await other.scalars(select(Plain.id))) == []


async def test_a_base_without_a_registry_of_that_name_is_emptied(session: AsyncSession) -> None:
    """The base of SQLModel has only ``metadata``."""

    class Model:
        metadata = Base.metadata

    session.add(Plain(id=1))
    await session.commit()
    await cleanup_tables(session, Model)
    assert await session.get(Plain, 1) is None


async def test_what_has_no_metadata_is_refused(session: AsyncSession) -> None:
    with pytest.raises(InvalidArgumentError, match="base must be a declarative base"):
        await cleanup_tables(session, dict)


async def test_views_are_left_alone_and_materialized_ones_refreshed(session: AsyncSession) -> None:
    metadata = MetaData()
    Table("things", metadata, Column("id", Integer, primary_key=True))
    Table("all_things", metadata, Column("id", Integer))
    Table("kept_things", metadata, Column("id", Integer))
    Table("more_things", metadata, Column("id", Integer))
    for statement in (
        "CREATE TABLE things (id int PRIMARY KEY)",
        "INSERT INTO things VALUES (1)",
        "CREATE VIEW all_things AS SELECT * FROM things",
        "CREATE MATERIALIZED VIEW more_things AS SELECT * FROM things",
        "CREATE MATERIALIZED VIEW kept_things AS SELECT * FROM more_things",
    ):
        await session.execute(text(statement))
    await session.commit()
    await cleanup_tables(session, metadata)
    for name in metadata.tables:
        assert await session.scalar(text(f"SELECT count(*) FROM {name}")) == 0


async def test_sequences_of_the_metadata_begin_anew(session: AsyncSession) -> None:
    """Sequences that are a column's default, and sequences without a column."""
    metadata = MetaData()
    Sequence("tickets", start=5, metadata=metadata)
    table = Table(
        "numbered", metadata, Column("id", Integer, Sequence("numbers"), primary_key=True)
    )
    await (await session.connection()).run_sync(metadata.create_all)
    for _ in range(3):
        await session.execute(insert(table))
        await session.execute(text("SELECT nextval('tickets')"))
    await session.commit()
    await cleanup_tables(session, metadata)
    await session.execute(insert(table))
    assert await session.scalar(select(table.c.id)) == 1
    assert await session.scalar(text("SELECT nextval('tickets')")) == 5


async def test_a_session_that_begins_nothing_by_itself_can_clean_up(engine: AsyncEngine) -> None:
    await execute(engine, insert(Plain).values(id=1))
    async with AsyncSession(engine, autobegin=False) as session:
        await cleanup_tables(session, Base)
        assert not session.in_transaction()
        async with session.begin():
            assert await session.get(Plain, 1) is None


async def test_the_user_of_a_template_is_named(server: URL) -> None:
    name = f"template_{uuid4().hex[:8]}"
    await create_database(name, server_url=server)
    settings = {"server_settings": {"application_name": "the forgetful one"}}
    engine = create_async_engine(server.set(database=name), connect_args=settings)
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DatabaseStateError, match=f"in use: by pid {pid} .*forgetful") as caught:
            await create_database(f"{name}_copy", server_url=server, template=name)
        assert caught.value.state == "in use"
    await engine.dispose()
    await drop_database(name, server_url=server)
