"""No role can run its code with the rights of another role."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import TriggerError, TriggerState, install_triggers, trigger_status
from rowbell._watch.database.triggers import TableTriggers
from rowbell._watch.values.key_hash import KeyColumn
from support.models import Order
from support.roles import Warned, connected, register, role
from support.waits import armed, run, state_of


async def test_the_types_of_a_stranger_run_none_of_its_code_as_somebody_else(
    orders: AsyncEngine, database: URL
) -> None:
    """Casts, operators and hash functions of a type run as the writer, or not at all."""
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
    """Also if the installer's search_path has operators of the same name."""

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


async def test_a_trigger_function_that_a_stranger_has_prepared_is_refused(
    orders: AsyncEngine, database: URL
) -> None:
    """Its name is predictable, and CREATE OR REPLACE would not change its owner."""

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
        with pytest.raises(TriggerError, match=f"trigger function belongs to {stranger.username}"):
            await run(engine, install_triggers, table)
        assert await state_of(engine, table) is TriggerState.MISSING
        await engine.dispose()


async def test_nothing_of_a_stranger_runs_as_the_role_that_listens_and_reads(
    orders: AsyncEngine, database: URL
) -> None:
    """The stranger may create objects in a schema of that role's search_path.

    Up to PostgreSQL 14, every role may do so in ``public``.
    """
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
    "columns",
    ["{nonesuch}", "{NULL}", '{""}', "{row_to_json}", "{n,nonesuch}", '{n,NULL,"",xmin}', "{}"],
)
async def test_what_is_no_column_is_not_registered(
    orders: AsyncEngine, database: URL, columns: str
) -> None:
    """A writer's trigger builds SQL from the names of columns. Beside it, columns are."""
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
        assert [row["columns"] for row in registered] == [["n"]] * (1 + columns.startswith("{n,"))
        await owner.execute("UPDATE orders SET n = n + 1")
    assert warned.messages == []
