"""Compares the triggers of a database with the declared models, for ``--autogenerate``.

The operations of a revision are in this order, and its downgrade in the reverse order:

1. drops: of triggers that nobody declares any more, and of those that stand in the way of 2;
2. all operations on tables, as Alembic found them;
3. creates and replacements: also of what was dropped only for 2.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from alembic import util
from alembic.operations.ops import (
    AlterColumnOp,
    CreateTableOp,
    DropColumnOp,
    DropTableOp,
    MigrateOperation,
    ModifyTableOps,
)
from sqlalchemy import MetaData, Table

from rowbell._watch.database.ddl import in_terms_of_pg_catalog
from rowbell._watch.database.inspection import TriggerState
from rowbell._watch.database.install import trigger_status
from rowbell._watch.database.installed import TableInCatalog, tables_in_catalog
from rowbell._watch.database.schema import NEWER, SCHEMA, schema_status
from rowbell._watch.database.tables import (
    TriggerOptions,
    is_declared,
    options_of,
    refuse_impossible,
    table_oid,
)
from rowbell._watch.database.triggers import ForEach
from rowbell.alembic.operations import (
    ChangeKeyOp,
    CreateRowTriggersOp,
    ReplaceRowTriggersOp,
)
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy import Connection


def compare_triggers(
    context: AutogenContext, upgrade_ops: UpgradeOps, _schemas: set[str | None]
) -> None:
    """Add what is different about triggers to a revision."""
    if context.connection is None or context.connection.dialect.name != "postgresql":
        return
    # No metadata has the tables of the schema rowbell, so Alembic would drop them.
    operations = [one for one in upgrade_ops.ops if getattr(one, "schema", None) != SCHEMA]
    comparison = _Comparison(context, context.connection, operations)
    comparison.run()
    upgrade_ops.ops = [*comparison.before, *operations, *comparison.after]


@dataclass
class _TableOperations:
    """What a revision does to tables.

    Attributes:
        created: The tables that it creates: the schema and the name, as the metadata has them.
        dropped: The tables that it drops, by their oids.
        touched: The columns whose type it changes, or that it drops, by the oid of the table.
    """

    created: set[tuple[str | None, str]] = field(default_factory=set[tuple[str | None, str]])
    dropped: dict[int, DropTableOp] = field(default_factory=dict[int, DropTableOp])
    touched: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, operations: Iterable[MigrateOperation], connection: Connection) -> _TableOperations:
        """Look through the operations of a revision."""
        found = cls()
        for one in _flat(operations):
            if isinstance(one, CreateTableOp):
                found.created.add((one.schema, one.table_name))
            elif isinstance(one, DropTableOp):
                found.dropped[_oid(connection, one.schema, one.table_name)] = one
            elif isinstance(one, DropColumnOp) or (
                isinstance(one, AlterColumnOp) and one.modify_type is not None
            ):
                oid = _oid(connection, one.schema, one.table_name)
                found.touched[oid].add(one.column_name)
        return found


def _flat(operations: Iterable[MigrateOperation]) -> Iterable[MigrateOperation]:
    for one in operations:
        yield from one.ops if isinstance(one, ModifyTableOps) else [one]


def _oid(connection: Connection, schema: str | None, name: str) -> int:
    """The oid of a table; 0 if it does not exist.

    As in Alembic, the search_path decides on a table without a schema. Names differ where the
    metadata names the default schema and Alembic leaves it out; the oid is the same.
    """
    table = Table(name, MetaData(), schema=schema)
    return table_oid(connection, connection.schema_for_object(table), name) or 0


class _Comparison:
    """One comparison.

    Args:
        context: Alembic's.
        connection: The connection to the database.
        operations: What the revision does to tables.

    Attributes:
        before: The operations before those on tables.
        after: The operations after those.
    """

    def __init__(
        self,
        context: AutogenContext,
        connection: Connection,
        operations: Iterable[MigrateOperation],
    ) -> None:
        self.before: list[MigrateOperation] = []
        self.after: list[MigrateOperation] = []
        self._context = context
        self._connection = connection
        self._tables = _TableOperations.of(operations, connection)
        with in_terms_of_pg_catalog(connection):
            self._is_newer = schema_status(connection).state in NEWER

    def run(self) -> None:
        """Compare all tables."""
        declared = {
            table: _oid(self._connection, table.schema, table.name)
            for table in self._context.sorted_tables
        }
        dropped = self._tables.dropped
        found = tables_in_catalog(self._connection, {*declared.values(), *dropped})
        for table, oid in declared.items():
            if (table.schema, table.name) in self._tables.created:
                if is_declared(table):
                    self._create(table)
            elif oid in found and self._is_included(table):
                if is_declared(table):
                    self._compare(table, found[oid])
                else:
                    self._drop(table.schema, table.name, found[oid])
        for oid in dropped.keys() & found.keys() - set(declared.values()):
            if found[oid].key:  # without a key, the downgrade could not create the triggers
                self._drop(dropped[oid].schema, dropped[oid].table_name, found[oid])

    def _is_included(self, table: Table) -> bool:
        """Whether the filters of ``env.py`` include a table."""
        is_default = table.schema == self._connection.dialect.default_schema_name
        parents: Any = {"schema_name": None if is_default else table.schema}
        by_name = self._context.run_name_filters(table.name, "table", parents)
        return by_name and self._context.run_object_filters(
            table, table.name, "table", reflected=False, compare_to=table
        )

    def _create(self, table: Table) -> None:
        """Create the triggers of a table that the revision creates."""
        is_partitioned = bool(table.dialect_options["postgresql"]["partition_by"])
        key, options = list(table.primary_key.columns), options_of(table)
        try:
            refuse_impossible(table.fullname, key, options.for_each, is_partitioned=is_partitioned)
        except TriggerError as error:
            util.warn(f"rowbell: {error}")
        else:
            wanted = _as_declared(table, is_partitioned=is_partitioned)
            self.after.append(CreateRowTriggersOp(table.name, **wanted))

    def _drop(self, schema: str | None, name: str, found: TableInCatalog) -> None:
        if found.options is not None:
            self.before.append(_as_found(schema, name, found).reverse())

    def _compare(self, table: Table, found: TableInCatalog) -> None:
        before = _as_found(table.schema, table.name, found)
        is_touched = bool(found.depended & self._tables.touched[found.oid])
        try:
            [status] = trigger_status(self._connection, table)
        except TriggerError as error:
            util.warn(f"rowbell: {error}")
            if is_touched:
                self._replace_around(before, before)
            return
        wanted = _as_declared(table, is_partitioned=found.is_partitioned)
        create = CreateRowTriggersOp(table.name, **wanted)
        is_same = self._is_newer and _normal(before) == _normal(create)
        if {*found.key} != {*wanted["key"]}:
            key = ChangeKeyOp(table.name, [*found.key], wanted["key"], schema=table.schema)
            self._replace_around(before if found.options else None, create, key)
        elif found.options is None:
            self.after.append(create)
        elif is_touched:
            self._replace_around(before, create)
        elif status.state in {TriggerState.MISSING, TriggerState.UNTRUSTED} or (
            status.state is TriggerState.OUTDATED and not is_same
        ):
            self.after.append(ReplaceRowTriggersOp(table.name, before=before, **wanted))

    def _replace_around(
        self,
        before: CreateRowTriggersOp | None,
        after: CreateRowTriggersOp,
        *key: ChangeKeyOp,
    ) -> None:
        """Drop the triggers before all operations on tables, and create them after these."""
        if before is not None:
            self.before.append(before.reverse())
        self.after += [*key, after]


def _as_declared(table: Table, *, is_partitioned: bool) -> dict[str, Any]:
    key = [column.name for column in table.primary_key.columns]
    options = options_of(table)
    if is_partitioned:
        options = replace(options, for_each=ForEach.ROW)  # for --sql, which asks no database
    return {"schema": table.schema, "key": key, **_as_arguments(options)}


def _as_found(schema: str | None, name: str, found: TableInCatalog) -> CreateRowTriggersOp:
    """The operation that creates triggers as they are now."""
    options = found.options or TriggerOptions()
    return CreateRowTriggersOp(name, schema=schema, key=[*found.key], **_as_arguments(options))


def _normal(operation: CreateRowTriggersOp) -> tuple[object, ...]:
    """The options of an operation, however they are spelled."""
    options = operation.options
    by_row = options.for_each is ForEach.ROW or options.needs_rows
    columns = None if options.columns is None else frozenset(options.columns)
    return frozenset(operation.key or ()), by_row, options.replicated, columns, options.inserts


def _as_arguments(options: TriggerOptions) -> dict[str, Any]:
    return {
        "for_each": options.for_each,
        "replicated": options.replicated,
        "columns": None if options.columns is None else sorted(options.columns),
        "inserts": options.inserts,
    }
