"""Where autogenerate could be wrong: search paths, renames, foreign code, other versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import DBAPIError

import rowbell.alembic
from rowbell import InvalidArgumentError, TriggerError
from support.observed import execute
from support.projects import Project, new_project, order

OTHER = """
@rowbell.watched
class Other(Base):
    __tablename__ = "other"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
UNDECLARED = order().replace("@rowbell.watched", "")


@pytest.fixture
def project(server: URL, tmp_path: Path) -> Iterator[Project]:
    """A migrated project, whose triggers have the declared column ``state``."""
    with new_project(server, tmp_path) as project:
        project.declare(order("(columns=['state'])"))
        project.revision()
        project.upgrade()
        yield project


@pytest.fixture
def role(project: Project) -> Iterator[str]:
    """A role that may create in the schema public and run migrations."""
    name = f"role_{project.url.database}"[:60]
    run(
        project,
        f"CREATE ROLE {name}",
        f"GRANT CREATE, USAGE ON SCHEMA public TO {name}",
        f"GRANT SELECT, UPDATE ON alembic_version TO {name}",
    )
    yield name
    run(project, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def run(project: Project, *statements: str) -> None:
    asyncio.run(execute(project.url, *statements))


def enabled(project: Project) -> dict[str, str]:
    """How each trigger of the table is enabled, as in ``pg_trigger``."""
    found = project.query(
        "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = 'orders'::regclass"
    )
    return {name.removeprefix("rowbell_"): state for name, state in found}


def test_the_search_path_decides_where_a_table_is(project: Project) -> None:
    """The first schema of the path need not be the table's."""
    run(project, "CREATE SCHEMA app")
    run(project, f"ALTER DATABASE {project.url.database} SET search_path = app, public")
    assert not project.differs()
    project.declare(UNDECLARED)
    assert project.revision() == ["drop_row_triggers('orders', key=['id'], columns=['state'])"]
    project.round_trip()


def test_nothing_in_the_search_path_is_executed(project: Project) -> None:
    run(
        project,
        "CREATE FUNCTION theirs(smallint, int) RETURNS int LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''foreign code''; END'",
        "CREATE OPERATOR & (LEFTARG = smallint, RIGHTARG = int, FUNCTION = theirs)",
        "CREATE FUNCTION theirs(name, text) RETURNS boolean LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''foreign code''; END'",
        "CREATE OPERATOR ~ (LEFTARG = name, RIGHTARG = text, FUNCTION = theirs)",
        f"ALTER DATABASE {project.url.database} SET search_path = public, pg_catalog",
    )
    assert not project.differs()
    project.by_hand("op.upgrade_row_triggers()")
    project.upgrade()


def test_the_default_schema_may_be_spelled_out(project: Project) -> None:
    spelled = "    __table_args__ = {'schema': 'public'}\n    id:"
    project.declare(order("(columns=['state'])", state="String(9)").replace("    id:", spelled))
    first, *_, last = project.revision()
    assert first == "drop_row_triggers('orders', key=['id'], schema='public', columns=['state'])"
    assert last == "create_row_triggers('orders', key=['id'], schema='public', columns=['state'])"
    project.round_trip()


def test_filters_see_the_default_schema_as_alembic_shows_it(project: Project) -> None:
    spelled = "    __table_args__ = {'schema': 'public'}\n    id:"
    only = "options = {'include_schemas': True, 'include_name': lambda name, type_, parents:"
    only += " name is None if type_ == 'schema' else parents['schema_name'] is None}\n"
    project.declare(only + order("(columns=['n'])").replace("    id:", spelled))
    assert [line.split("(")[0] for line in project.revision()] == ["replace_row_triggers"]
    project.round_trip()


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (
            order("(columns=['phase'])", state="String(9)").replace("state:", "phase:"),
            "drop_row_triggers('orders', key=['id'], columns=['phase'])",
        ),
        (
            UNDECLARED.replace("state:", "phase:"),
            "drop_row_triggers('orders', key=['id'], columns=['phase'])",
        ),
        ("", "drop_row_triggers('orders', key=['id'], columns=['phase'])"),
    ],
    ids=["and its type", "and nobody watches", "and the table is dropped"],
)
def test_a_column_that_was_renamed_by_hand(project: Project, models: str, expected: str) -> None:
    """The condition of the trigger has its new name, the trigger's argument its old one."""
    run(project, "ALTER TABLE orders RENAME state TO phase")
    project.declare(models)
    assert project.revision()[0] == expected
    project.round_trip()


def test_a_column_that_took_the_name_of_a_renamed_one(project: Project) -> None:
    run(
        project,
        "ALTER TABLE orders RENAME state TO phase",
        "ALTER TABLE orders ADD state varchar(20) NOT NULL DEFAULT ''",
    )
    phase = "    phase: Mapped[str] = mapped_column(String(9))\n"
    project.declare(order("(columns=['state'])") + phase)
    first, *_, last = project.revision()
    assert first == "drop_row_triggers('orders', key=['id'], columns=['phase'])"
    assert last == "create_row_triggers('orders', key=['id'], columns=['state'])"
    project.round_trip()


def test_a_table_that_was_renamed_takes_its_triggers_along(project: Project) -> None:
    project.by_hand("op.rename_table('orders', 'purchases')")
    project.run("upgrade", "head")
    renamed = order("(columns=['state'])").replace('"orders"', '"purchases"')
    project.declare(renamed)
    assert not project.differs()
    project.declare(renamed.replace("20", "9"))
    assert project.revision()[0] == (
        "drop_row_triggers('purchases', key=['id'], columns=['state'])"
    )
    project.round_trip()


def test_a_key_that_was_changed_by_hand_is_a_replacement(project: Project) -> None:
    """The mistake that a forgotten migration is: the table has its new key, the triggers do not."""
    run(
        project,
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        "ALTER TABLE orders ADD PRIMARY KEY (id, n)",
    )
    wider = order("(columns=['state'])").replace(
        "n: Mapped[int]", "n: Mapped[int] = mapped_column(primary_key=True)"
    )
    project.declare(wider)
    assert project.revision() == [
        "replace_row_triggers('orders', key=['id', 'n'], columns=['state'])"
    ]
    project.round_trip()
    project.declare("")
    assert project.revision() == [
        "drop_row_triggers('orders', key=['id', 'n'], columns=['state'])",
        "drop_table('orders')",
    ]
    project.round_trip()


def test_triggers_of_which_one_is_missing(project: Project) -> None:
    run(project, "DROP TRIGGER rowbell_truncate ON orders")
    project.declare(order("(columns=['state'])", state="String(9)"))
    first, *_, last = project.revision()
    assert (first.split("(")[0], last.split("(")[0]) == ("drop_row_triggers", "create_row_triggers")
    project.upgrade()
    run(project, "DROP TRIGGER rowbell_update ON orders")
    project.declare(UNDECLARED.replace("20", "9"))
    assert project.revision() == ["drop_row_triggers('orders', key=['id'], columns=['state'])"]
    project.upgrade()


def test_a_disabled_trigger_stays_disabled_through_drop_and_create(project: Project) -> None:
    run(project, "ALTER TABLE orders DISABLE TRIGGER rowbell_update")
    project.declare(order("(columns=['state'])", state="String(9)"))
    assert len(project.revision()) == 3
    project.upgrade()
    assert enabled(project) == {"update": "D", "delete": "O", "truncate": "O"}


def test_the_downgrade_knows_that_the_triggers_were_replicated(project: Project) -> None:
    """Also if one of them was disabled since."""
    project.declare(order("(replicated=True)"))
    project.revision()
    project.upgrade()
    run(project, "ALTER TABLE orders DISABLE TRIGGER rowbell_update")
    project.declare(order())
    project.revision()
    project.upgrade()
    project.run("downgrade", "-1")
    assert enabled(project) == {"update": "D", "delete": "A", "truncate": "A"}


@pytest.mark.filterwarnings("ignore:autoincrement and existing_autoincrement:UserWarning")
def test_the_type_of_a_key_changes_without_a_lock_on_triggers_that_do_not_name_it(
    project: Project,
) -> None:
    project.declare(order())
    project.revision()
    project.upgrade()
    project.declare(order(key_type="BigInteger, "))
    assert project.revision() == ["alter_column('orders', 'id',"]
    project.round_trip()


@pytest.mark.parametrize("argument", ["", r"""('{"version"\:9}')""", "('v9;id')"])
def test_triggers_in_an_unknown_form_are_replaced_and_stop_nobody(
    project: Project, argument: str
) -> None:
    function = "rowbell.changed_0123456789abcdef"
    run(
        project,
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'",
        "CREATE TABLE other (id int PRIMARY KEY)",
        f"CREATE TRIGGER rowbell_update AFTER UPDATE ON other EXECUTE FUNCTION {function}"
        + (argument or "()"),
    )
    project.declare(order("(columns=['state'])") + OTHER)
    assert project.revision() == ["replace_row_triggers('other', key=['id'])"]
    project.round_trip()


def test_names_from_the_catalog_are_not_code_in_the_revision(project: Project) -> None:
    name = "x'\nraise SystemExit('from the catalog')  #"
    model = order().replace("    n: Mapped[int]", "    n: Mapped[int] = mapped_column({})")
    model = model.replace("mapped_column(primary", f"mapped_column({name!r}, primary")
    project.declare(order())
    project.revision()
    project.upgrade()
    run(project, f'ALTER TABLE orders RENAME id TO "{name}"'.replace(":", r"\:"))
    project.declare(model.format("primary_key=True"))
    drop, comment, create = project.revision()
    assert drop == f"drop_row_triggers('orders', key=[{name!r}])"
    assert comment.endswith(f"from [{name!r}] to [{name!r}, 'n']:")
    assert create == f"create_row_triggers('orders', key=[{name!r}, 'n'])"


def test_an_older_rowbell_leaves_newer_triggers_alone(project: Project) -> None:
    """Unless the options differ."""
    run(
        project,
        "CREATE OR REPLACE FUNCTION rowbell.schema_version(OUT version integer,"
        " OUT compatible_with integer) LANGUAGE sql IMMUTABLE AS 'SELECT 2, 1'",
        "DO $$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(tgfoid), 'BEGIN', 'BEGIN '"
        " || '/* newer */') FROM pg_trigger WHERE tgname = 'rowbell_update'); END $$",
    )
    assert not project.differs()
    project.declare(order())
    assert project.differs()


def test_impossible_declarations_are_refused_or_warned_of(project: Project) -> None:
    project.declare(order("(columns=['state'], for_each='statement')"))
    with pytest.raises(InvalidArgumentError, match="for_each must be 'row'"):
        project.revision()
    without_key = order().replace("primary_key=True", "").replace("orders", "logs")
    mapped = without_key + "    __mapper_args__ = {'primary_key': ['id']}\n"
    big = """
@rowbell.watched(for_each="statement")
class Big(Base):
    __tablename__ = "big"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
    id: Mapped[int] = mapped_column(primary_key=True)
"""
    project.declare(order("(columns=['state'])").replace("Order", "First") + mapped + big)
    with pytest.warns(UserWarning, match="rowbell") as warned:
        assert "triggers" not in "".join(project.revision())
    found = sorted(str(one.message) for one in warned)
    assert found == [
        'rowbell: big: a partitioned table needs for_each="row"',
        "rowbell: logs: it has no primary key to identify its rows",
    ]
    project.run("upgrade", "head")
    with pytest.warns(UserWarning, match="rowbell") as warned:
        assert not project.differs()
    assert len(warned) == 2


def test_the_upgrade_of_all_tables_leaves_what_it_cannot_do(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    run(
        project,
        "ALTER TABLE orders RENAME state TO phase",
        "CREATE TABLE keyless (id int PRIMARY KEY)",
    )
    project.by_hand("op.create_row_triggers('keyless')")
    project.run("upgrade", "head")
    run(project, "ALTER TABLE keyless DROP CONSTRAINT keyless_pkey")
    project.declare(order("(columns=['phase'])").replace("state:", "phase:"))
    project.by_hand("op.upgrade_row_triggers()")
    with caplog.at_level(logging.WARNING, "rowbell"):
        project.run("upgrade", "head")
    assert 'as they are: "public"."keyless": it has no primary key' in caplog.text
    run(project, "DROP TABLE keyless")
    assert not project.differs()
    run(
        project,
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
    )
    project.by_hand("op.upgrade_row_triggers()")
    with pytest.raises(TriggerError, match="no primary key"):
        project.run("upgrade", "head")


def test_the_upgrade_of_all_tables_goes_on_after_a_missing_right(
    project: Project, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a table whose schema the role may not use does not end the transaction."""
    run(
        project,
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.t (id int PRIMARY KEY)",
        "CREATE TABLE own (id int PRIMARY KEY)",
    )
    project.by_hand("op.create_row_triggers('t', schema='hidden'); op.create_row_triggers('own')")
    project.run("upgrade", "head")
    for table in ("hidden.t", "own"):
        run(project, f"DROP TRIGGER rowbell_delete ON {table}")
        run(project, f"ALTER TABLE {table} OWNER TO {role}")
    project.by_hand(f"op.execute('SET LOCAL ROLE {role}'); op.upgrade_row_triggers()")
    with caplog.at_level(logging.WARNING, "rowbell"):
        project.run("upgrade", "head")
    assert '"hidden"."t": the current role may not install here' in caplog.text
    assert len(project.query("SELECT tgname FROM pg_trigger WHERE tgrelid = 'own'::regclass")) == 3


def test_the_upgrade_of_all_tables_asks_only_for_those_of_the_role(
    project: Project, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(
        project,
        "CREATE TABLE theirs (id int PRIMARY KEY)",
        f"ALTER TABLE theirs OWNER TO {role}",
    )
    project.by_hand(f"op.execute('SET LOCAL ROLE {role}'); op.create_row_triggers('theirs')")
    project.run("upgrade", "head")
    project.by_hand(f"op.execute('SET LOCAL ROLE {role}'); op.upgrade_row_triggers()")
    with caplog.at_level(logging.WARNING, "rowbell"):
        project.run("upgrade", "head")
    assert "public.orders: it belongs to another role" in caplog.text


def test_errors_about_other_things_are_not_explained(project: Project) -> None:
    run(
        project,
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER rowbell_updated_at BEFORE UPDATE OF n ON orders"
        " FOR EACH ROW EXECUTE FUNCTION theirs()",
    )
    for statement in ("ALTER TABLE orders DROP COLUMN n", "DROP SCHEMA rowbell"):
        with pytest.raises(DBAPIError) as refused:
            run(project, statement)
        assert "op.drop_row_triggers" not in str(refused.value)


def test_other_databases_have_no_triggers_as_with_create_all() -> None:
    rowbell.alembic.register()
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        op: Any = Operations(MigrationContext.configure(connection))
        connection.execute(text("CREATE TABLE orders (id int PRIMARY KEY)"))
        op.create_row_triggers("orders", key=["id"])
        op.replace_row_triggers("orders", key=["id"])
        op.upgrade_row_triggers()
        op.drop_row_triggers("orders", key=["id"])
    engine.dispose()
