"""``alembic revision --autogenerate`` writes the triggers that the models declare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell.alembic
from rowbell import Reason, RowWatcher
from support.observed import execute
from support.projects import Project, new_project, order
from support.waits import HOUR, QUICK, polled_because


@pytest.fixture
def project(server: URL, tmp_path: Path) -> Iterator[Project]:
    with new_project(server, tmp_path) as project:
        yield project


def run(project: Project, *statements: str) -> None:
    asyncio.run(execute(project.url, *statements))


def test_a_declared_model_gets_its_triggers_after_its_table(project: Project) -> None:
    project.declare(order())
    created, triggers = project.revision()
    assert created.startswith("create_table('orders'")
    assert triggers == "create_row_triggers('orders', key=['id'])"
    project.round_trip("base")


def test_other_options_are_a_replacement_which_the_downgrade_takes_back(project: Project) -> None:
    project.declare(order())
    project.revision()
    project.upgrade()
    project.declare(order("(columns=['state'])"))
    assert project.revision() == ["replace_row_triggers('orders', key=['id'], columns=['state'])"]
    project.round_trip()
    project.run("downgrade", "-1")
    project.declare(order())
    project.run("stamp", "head")
    assert not project.differs()
    project.declare(order("(replicated=True, for_each='row')"))
    assert project.differs()


def test_triggers_that_nobody_declares_any_more_are_dropped(project: Project) -> None:
    project.declare(order("(for_each='row')"))
    project.revision()
    project.upgrade()
    project.declare(order().replace("@rowbell.watched", ""))
    assert project.revision() == ["drop_row_triggers('orders', key=['id'], for_each='row')"]
    project.round_trip()


def test_a_dropped_table_gets_its_triggers_back_by_the_downgrade(project: Project) -> None:
    project.declare(order("(columns=['n'])"))
    project.revision()
    project.upgrade()
    project.declare("")
    assert project.revision() == [
        "drop_row_triggers('orders', key=['id'], columns=['n'])",
        "drop_table('orders')",
    ]
    project.round_trip()


@pytest.mark.parametrize(
    "changed",
    [
        order("(columns=['state'])", state="String(9)"),
        order("(columns=['state'])", key_type="BigInteger, "),
        order("(columns=['n'])").replace(
            "    state: Mapped[str] = mapped_column(String(20))\n", ""
        ),
    ],
    ids=["a declared column's type", "the key's type", "a declared column is dropped"],
)
@pytest.mark.filterwarnings("ignore:autoincrement and existing_autoincrement:UserWarning")
@pytest.mark.parametrize("options", ["", "options = {'render_as_batch': True}\n"])
def test_a_column_that_a_trigger_names_is_changed_between_drop_and_create(
    project: Project, changed: str, options: str
) -> None:
    project.declare(order("(columns=['state'])"))
    project.revision()
    project.upgrade()
    project.declare(options + changed)
    first, *_, last = project.revision()
    assert first == "drop_row_triggers('orders', key=['id'], columns=['state'])"
    assert last.startswith("create_row_triggers('orders', key=['id']")
    project.round_trip()


def test_after_a_column_was_renamed_the_triggers_are_replaced(project: Project) -> None:
    """Their condition follows the column, but their options still have its old name."""
    project.declare(order("(columns=['state'])"))
    project.revision()
    project.upgrade()
    project.by_hand("op.alter_column('orders', 'state', new_column_name='phase')")
    project.run("upgrade", "head")
    project.declare(order("(columns=['phase'])").replace("state:", "phase:"))
    assert project.revision() == ["replace_row_triggers('orders', key=['id'], columns=['phase'])"]
    project.round_trip()


def test_a_changed_primary_key_is_a_comment_between_drop_and_create(project: Project) -> None:
    """Alembic writes nothing for it. The user writes the operations at the comment."""
    project.declare(order())
    project.revision()
    project.upgrade()
    project.declare(
        order().replace("n: Mapped[int]", "n: Mapped[int] = mapped_column(primary_key=True)")
    )
    assert project.revision() == [
        "drop_row_triggers('orders', key=['id'])",
        "# Change the primary key of 'orders' here, from ['id'] to ['id', 'n']:",
        "create_row_triggers('orders', key=['id', 'n'])",
    ]


def test_a_disabled_trigger_is_no_difference(project: Project) -> None:
    project.declare(order())
    project.revision()
    project.upgrade()
    run(project, "ALTER TABLE orders DISABLE TRIGGER rowbell_update")
    assert not project.differs()


def test_triggers_of_others_and_tables_that_are_filtered_are_left_alone(project: Project) -> None:
    project.declare(order())
    project.revision()
    project.upgrade()
    run(
        project,
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER theirs AFTER UPDATE ON orders EXECUTE FUNCTION theirs()",
    )
    assert not project.differs()
    project.declare(
        "options = {'include_object': lambda _, name, *rest: name != 'orders'}\n"
        + order().replace("@rowbell.watched", "")
    )
    assert not project.differs()
    project.declare("options = {'include_name': lambda name, *rest: name != 'orders'}\n")
    assert not project.differs()


def test_the_same_name_in_two_schemas_quoted_and_reserved(project: Project) -> None:
    run(project, 'CREATE SCHEMA "My app"', 'CREATE SCHEMA "select"')
    table = """
    @rowbell.watched(columns=["group"])
    class {name}(Base):
        __tablename__ = "Order"
        __table_args__ = {{"schema": {schema!r}}}
        id: Mapped[int] = mapped_column("Key", primary_key=True)
        group: Mapped[str] = mapped_column("Group")
    """
    models = [table.format(name=f"In{i}", schema=s) for i, s in enumerate(("My app", "select"))]
    options = "options = {'include_schemas': True}\n"
    project.declare(options + "".join(map(_dedented, models)))
    assert project.revision()[-1] == (
        "create_row_triggers('Order', key=['Key'], schema='select', columns=['Group'])"
    )
    project.round_trip("base")
    project.declare(options + _dedented(models[0]))
    assert project.revision() == [
        "drop_row_triggers('Order', key=['Key'], schema='select', columns=['Group'])",
        "drop_table('Order', schema='select')",
    ]
    project.round_trip()


def _dedented(text: str) -> str:
    return text.replace("\n    ", "\n")


def test_the_schemas_of_tenants_by_search_path(project: Project) -> None:
    """As in Alembic's cookbook. Triggers of other schemas are those of other tenants."""
    run(project, "CREATE SCHEMA one", "CREATE SCHEMA two")
    for tenant in ("one", "two"):
        project.declare(f"tenant = {tenant!r}\n" + order())
        if tenant == "one":
            assert project.revision()[-1] == "create_row_triggers('orders', key=['id'])"
        project.upgrade()
    project.declare("tenant = 'two'\n" + order("(columns=['n'])"))
    assert project.revision() == ["replace_row_triggers('orders', key=['id'], columns=['n'])"]
    project.round_trip()


def test_a_schema_translate_map_leads_to_the_translated_schema(project: Project) -> None:
    """Alembic itself cannot compare tables under such a map, but it migrates them."""
    project.declare(order())
    project.revision()
    run(project, "CREATE SCHEMA tenant")
    project.declare(
        "translated = {None: 'tenant'}\noptions = {'version_table_schema': 'public'}\n" + order()
    )
    project.run("upgrade", "head")
    project.declare("tenant = 'tenant'\noptions = {'version_table_schema': 'public'}\n" + order())
    assert not project.differs()


def test_partitioned_tables_and_joined_inheritance(project: Project) -> None:
    models = """
@rowbell.watched
class Big(Base):
    __tablename__ = "big"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
    id: Mapped[int] = mapped_column(primary_key=True)


@rowbell.watched
class Animal(Base):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind"}


@rowbell.watched
class Dog(Animal):
    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "dog"}
"""
    project.declare(models)
    written = [line for line in project.revision() if "triggers" in line]
    assert written == [
        "create_row_triggers('animals', key=['id'])",
        "create_row_triggers('big', key=['id'], for_each='row')",
        "create_row_triggers('dogs', key=['id'])",
    ]
    project.round_trip("base")
    run(project, "CREATE TABLE big_1 PARTITION OF big FOR VALUES FROM (1) TO (9)")
    project.declare("options = {'include_name': lambda name, *_: name != 'big_1'}\n" + models)
    assert not project.differs()


def test_several_metadata_collections(project: Project) -> None:
    other = (
        order().replace("(Base)", "(Other)").replace("Order", "Thing").replace("orders", "things")
    )
    project.declare(
        order()
        + "\n\nclass Other(DeclarativeBase):\n    pass\n\n"
        + other
        + "\n\ntarget_metadata = [Base.metadata, Other.metadata]\n"
    )
    written = [line for line in project.revision() if "triggers" in line]
    assert written == [f"create_row_triggers('{t}', key=['id'])" for t in ("orders", "things")]
    project.round_trip("base")


def test_the_sql_of_such_revisions_is_complete(project: Project) -> None:
    """Offline there is no database to ask, so the revision names the key and all options."""
    project.declare(order("(columns=['state'])"))
    project.revision()
    script = project.run("upgrade", "head", sql=True)
    assert "CREATE OR REPLACE TRIGGER rowbell_update AFTER UPDATE ON" in script


_FUNCTION = "rowbell.changed_0123456789abcdef"
_OPTIONS = r'{"version"\:1,"key"\:{"id"\:null},"columns"\:null}'

OLDER = [
    f"CREATE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    (
        "CREATE OR REPLACE TRIGGER rowbell_update AFTER UPDATE ON orders"
        f" EXECUTE FUNCTION {_FUNCTION}('{_OPTIONS}')"
    ),
]
"""Triggers as another version would have made them."""


def test_sql_of_an_older_version_is_replaced_with_the_same_options(project: Project) -> None:
    project.declare(order())
    project.revision()
    project.upgrade()
    run(project, *OLDER)
    assert project.revision() == ["replace_row_triggers('orders', key=['id'])"]
    project.round_trip()


def test_one_operation_upgrades_the_triggers_of_all_tables(project: Project) -> None:
    """For databases whose tables were created by an older version."""
    project.declare(order())
    project.revision()
    project.upgrade()
    run(project, *OLDER)
    assert project.differs()
    project.by_hand("op.upgrade_row_triggers()")
    project.upgrade()
    project.run("downgrade", "-1")
    assert "-- op.upgrade_row_triggers() must run online" in project.run(
        "upgrade", "head", sql=True
    )


def test_a_migration_by_hand_that_changes_such_a_column_is_told_what_to_do(
    project: Project,
) -> None:
    project.declare(order("(columns=['state'])"))
    project.revision()
    project.upgrade()
    project.by_hand("op.alter_column('orders', 'state', type_=sa.String(9))")
    with pytest.raises(DBAPIError, match=r"Call op.drop_row_triggers\(\)(?s:.*)orders"):
        project.run("upgrade", "head")


def test_a_wait_is_polled_under_older_triggers_and_armed_after_the_upgrade(
    project: Project,
) -> None:
    """It loses no change in between."""
    project.declare(order())
    project.revision()
    project.upgrade()
    run(project, *OLDER, "INSERT INTO orders VALUES (1, 'new', 0)")
    project.by_hand("op.upgrade_row_triggers()")

    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    async def waited() -> None:
        engine = create_async_engine(project.url)
        async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
            wait = await polled_because(watcher, Reason.TRIGGER_OUTDATED, Order, 1, interval=HOUR)
            await asyncio.to_thread(project.run, "upgrade", "head")
            await watcher.reached(lambda now: now.armed == 1)
            await execute(project.url, "UPDATE orders SET n = 1")
            assert (await wait).n == 1
        await engine.dispose()

    asyncio.run(waited())


def test_registering_again_changes_nothing(project: Project) -> None:
    rowbell.alembic.register()
    rowbell.alembic.register()
    project.declare(order())
    assert len(project.revision()) == 2
