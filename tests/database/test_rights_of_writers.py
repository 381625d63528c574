"""A writer needs no rights on rowbell's objects."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from support.models import Item
from support.observed import execute
from support.roles import REVOKED, Isolation, Warned, connected, role
from support.waits import armed


@pytest.mark.fault("B28")
@pytest.mark.parametrize("revoked", REVOKED.values(), ids=REVOKED)
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_a_writer_without_any_right_on_our_objects_notifies(
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


async def test_the_cascade_of_a_foreign_key_notifies_as_any_role(
    orders: AsyncEngine, database: URL
) -> None:
    """In PostgreSQL 18 it runs as the child's owner, before that as the outer role.

    Neither has rights on rowbell's objects.
    """
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
    """Logical replication from another database. Its owner has no rights on rowbell's objects."""

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


async def test_a_writer_needs_no_rights_beyond_those_on_the_table(
    orders: AsyncEngine, database: URL
) -> None:
    async with (
        role(database, "GRANT SELECT, UPDATE ON orders TO {role}") as url,
        connected(url) as writer,
    ):
        await writer.execute("UPDATE orders SET n = 7 WHERE id = 1")
        assert await writer.fetchval("SELECT n FROM orders WHERE id = 1") == 7
