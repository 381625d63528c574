"""What the operations do: online by rowbell's own functions, with ``--sql`` by printing them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import MetaData, Table

from rowbell._lock_timeout import LockTimeout
from rowbell._watch.database.ddl import execute, in_terms_of_pg_catalog, limited
from rowbell._watch.database.install import install_triggers, remove_triggers
from rowbell._watch.database.installed import (
    TableInCatalog,
    table_of,
    tables_in_catalog,
    tables_with_triggers,
)
from rowbell._watch.database.schema import NEWER, TRIGGERS, schema_status
from rowbell._watch.database.tables import TriggerOptions, table_triggers
from rowbell._watch.state import logger
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from collections.abc import Generator

    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from rowbell.alembic.operations import (
        CreateRowTriggersOp,
        DropRowTriggersOp,
        RowTriggersOp,
        UpgradeRowTriggersOp,
    )

_disabled: WeakKeyDictionary[MigrationContext, dict[int, tuple[str, ...]]] = WeakKeyDictionary()
"""The triggers that were disabled when a run of migrations dropped them, by the table's oid."""


def create(operations: Operations, operation: CreateRowTriggersOp) -> None:
    """Install the triggers, or print the SQL that does.

    Triggers that the same run has dropped while they were disabled are disabled again.
    """
    connection = _online(operations, operation)
    if connection is None:
        return
    found = _found(connection, operation)
    if operation.key is not None and set(operation.key) != {*found.key}:
        why = f"key={operation.key} is not its primary key ({', '.join(found.key)})"
        raise TriggerError(operation.qualified_name, why)
    unknown = [name for name in operation.columns or () if name not in found.columns]
    if unknown:
        why = f"columns={operation.columns}: it has no column {', '.join(unknown)}"
        raise TriggerError(operation.qualified_name, why)
    disabled = _disabled.get(operations.migration_context, {}).pop(found.oid, ())
    with _untranslated(connection):
        table = table_of(found, operation.options)
        install_triggers(connection, table, lock_timeout=operation.lock_timeout)
        name = table_triggers(connection, table).name
    has_inserts = operation.options.inserts
    left = [trigger for trigger in disabled if has_inserts or trigger != TRIGGERS[-1]]
    execute(connection, [f"ALTER TABLE {name} DISABLE TRIGGER {trigger}" for trigger in left])


def drop(operations: Operations, operation: DropRowTriggersOp) -> None:
    """Remove the triggers, or print the SQL that does. The table's key may be another by now."""
    connection = _online(operations, operation)
    if connection is None:
        return
    found = _found(connection, operation)
    if found.disabled:
        _disabled.setdefault(operations.migration_context, {})[found.oid] = found.disabled
    with _untranslated(connection):
        table = table_of(found, TriggerOptions())
        remove_triggers(connection, table, lock_timeout=operation.lock_timeout)


def upgrade(operations: Operations, operation: UpgradeRowTriggersOp) -> None:
    """Install the triggers of the role's tables again, with the options that they have.

    A table that cannot be upgraded is left as it is, with a warning.

    Raises:
        TriggerError: None of the role's tables can be upgraded; the error of the first one.
    """
    if not _is_postgresql(operations):
        return
    if operations.migration_context.as_sql:
        _leave("with --sql there is no database to ask for the tables: run it online")
        operations.migration_context.impl.static_output(
            "-- op.upgrade_row_triggers() must run online. A new database does not need it.\n"
        )
        return
    connection = operations.get_bind()
    with in_terms_of_pg_catalog(connection):
        schema = schema_status(connection)
    if schema.state in NEWER:
        _leave(f"the schema rowbell has the newer version {schema.version}")
        return
    upgraded: list[TableInCatalog] = []
    refused: list[TriggerError] = []
    for found in tables_with_triggers(connection):
        if not found.is_own:
            why = "it belongs to another role: run op.upgrade_row_triggers() as that role, too"
            _leave(f"{found.schema}.{found.name}: {why}")
            continue
        try:
            with _untranslated(connection), connection.begin_nested():
                table = table_of(found, found.options or TriggerOptions())
                install_triggers(connection, table, lock_timeout=operation.lock_timeout)
            upgraded.append(found)
        except TriggerError as error:
            refused.append(error)
    if refused and not upgraded:
        raise refused[0]
    for each in refused:
        _leave(str(each))


def _leave(why: str) -> None:
    logger.warning("rowbell: op.upgrade_row_triggers() leaves triggers as they are: %s", why)


def _is_postgresql(operations: Operations) -> bool:
    """Other databases have no triggers of rowbell, as with ``create_all()``."""
    return operations.migration_context.dialect.name == "postgresql"


def _online(
    operations: Operations, operation: CreateRowTriggersOp | DropRowTriggersOp
) -> Connection | None:
    """The connection; ``None`` with ``--sql``, which prints the operation, and elsewhere."""
    if not _is_postgresql(operations):
        return None
    if not operations.migration_context.as_sql:
        return operations.get_bind()
    for statement in limited(operation.statements(), LockTimeout.of(operation.lock_timeout)):
        # Not execute(): some dialects would double each % here, as they do for their driver.
        operations.migration_context.impl.static_output(f"{statement};\n")
    return None


def _found(connection: Connection, operation: RowTriggersOp) -> TableInCatalog:
    """The table as it is in the catalog.

    It is not reflected by SQLAlchemy, whose queries depend on the ``search_path``.
    """
    table = Table(operation.table_name, MetaData(), schema=operation.schema)
    oid = table_triggers(connection, table).oid or 0
    return tables_in_catalog(connection, [oid])[oid]


@contextmanager
def _untranslated(connection: Connection) -> Generator[None]:
    """Take the schemas of the block as they are: the catalog's are translated already."""
    before = connection.get_execution_options().get("schema_translate_map")
    connection.execution_options(schema_translate_map=None)
    try:
        yield
    finally:
        connection.execution_options(schema_translate_map=before)
