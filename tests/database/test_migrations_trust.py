"""Migrations and ``alembic check`` run no code of others, and change no tables of others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from support.observed import execute
from support.projects import Project, new_project, order


@pytest.fixture
def project(server: URL, tmp_path: Path) -> Iterator[Project]:
    """A migrated project."""
    with new_project(server, tmp_path) as project:
        project.declare(order())
        project.revision()
        project.upgrade()
        yield project


def run(project: Project, *statements: str) -> None:
    asyncio.run(execute(project.url, *statements))


FOREIGN = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''foreign code''; END'"


def test_functions_of_a_schema_that_is_not_trusted_are_not_called(project: Project) -> None:
    """Another role owns the schema, and says that it is a newer version. That is a difference."""
    role = f"role_{project.url.database}"[:60]
    run(
        project,
        f"CREATE ROLE {role}",
        f"ALTER SCHEMA rowbell OWNER TO {role}",
        "CREATE OR REPLACE FUNCTION rowbell.schema_version(OUT version integer,"
        " OUT compatible_with integer) LANGUAGE sql IMMUTABLE AS 'SELECT 99, 1'",
        "DROP FUNCTION rowbell.is_intact(oid, bytea)",
        f"CREATE FUNCTION rowbell.is_intact(oid, bytea) RETURNS boolean {FOREIGN}",
        f"ALTER FUNCTION rowbell.is_intact(oid, bytea) OWNER TO {role}",
    )
    assert project.differs()
    run(project, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP ROLE {role}")


def test_the_sql_of_a_migration_calls_nothing_in_the_search_path(project: Project) -> None:
    project.declare(order("(columns=['n'])"))
    project.revision()
    project.declare(order().replace("@rowbell.watched", ""))
    project.by_hand("op.drop_row_triggers('orders', key=['id'])")
    head = project.query("SELECT version_num FROM alembic_version")[0][0]
    script = project.run("upgrade", f"{head}:head", sql=True)
    run(
        project,
        f"CREATE FUNCTION theirs(text, oid) RETURNS text {FOREIGN}",
        "CREATE OPERATOR || (LEFTARG = text, RIGHTARG = oid, FUNCTION = theirs)",
        f"CREATE FUNCTION theirs(oid, oid) RETURNS boolean {FOREIGN}",
        "CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = theirs)",
        f"CREATE FUNCTION to_regclass(text) RETURNS regclass {FOREIGN}",
    )
    # Not for the whole database: the driver's own queries would call these, too.
    project.execute_script(f"SET search_path = public, pg_catalog;\n{script}")
    left = "SELECT tgname FROM pg_catalog.pg_trigger WHERE tgname LIKE 'rowbell%'"
    assert project.query(left) == []


def test_a_schema_of_that_name_that_is_not_ours_is_left_alone(project: Project) -> None:
    run(
        project,
        "DROP SCHEMA rowbell CASCADE",
        "CREATE SCHEMA rowbell",
        "CREATE FUNCTION rowbell.schema_version() RETURNS text LANGUAGE sql AS 'SELECT 1'",
    )
    project.declare(order().replace("@rowbell.watched", ""))
    assert not project.differs()


def test_the_upgrade_of_all_tables_does_not_translate_their_schemas(project: Project) -> None:
    run(
        project,
        "CREATE SCHEMA a",
        "CREATE SCHEMA b",
        "CREATE TABLE a.t (id int PRIMARY KEY)",
        "CREATE TABLE b.t (id int PRIMARY KEY)",
    )
    project.by_hand("op.create_row_triggers('t', schema='a')")
    project.run("upgrade", "head")
    run(project, "DROP TRIGGER rowbell_delete ON a.t")
    project.declare("translated = {'a': 'b'}\n" + order())
    project.by_hand("op.upgrade_row_triggers()")
    project.run("upgrade", "head")
    found = "SELECT tgname FROM pg_trigger WHERE tgrelid = '{}.t'::regclass"
    assert [len(project.query(found.format(schema))) for schema in "ab"] == [3, 0]


def test_a_model_that_is_declared_when_its_key_changes_gets_the_comment(project: Project) -> None:
    project.declare(order().replace("@rowbell.watched", ""))
    project.revision()
    project.upgrade()
    wider = order().replace("n: Mapped[int]", "n: Mapped[int] = mapped_column(primary_key=True)")
    project.declare(wider)
    comment, create = project.revision()
    assert comment.startswith("# Change the primary key of 'orders' here")
    assert create == "create_row_triggers('orders', key=['id', 'n'])"


def test_the_triggers_of_a_partition_are_those_of_its_table(project: Project) -> None:
    """They cannot be removed alone; the error says from what they can."""
    run(
        project,
        "CREATE TABLE big (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE big_1 PARTITION OF big FOR VALUES FROM (1) TO (9)",
    )
    project.by_hand("op.create_row_triggers('big'); op.drop_row_triggers('big_1')")
    with pytest.raises(RuntimeError, match="remove the triggers from the partitioned table"):
        project.run("upgrade", "head")
