"""What the operations do: online by rowbell's own functions, with ``--sql`` by printing them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import MetaData, Table
from sqlalchemy.exc import NoSuchTableError

from rowbell._lock_timeout import LockTimeout
from rowbell._watch.database.ddl import execute, limited
from rowbell._watch.database.install import install_triggers, remove_triggers
from rowbell._watch.database.installed import tables_in_catalog, tables_with_triggers
from rowbell._watch.database.tables import TriggerOptions, declare, table_triggers
from rowbell._watch.state import logger
from rowbell.errors import TriggerError

if TYPE_CHECKING:
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
    if not _is_postgresql(operations):
        return
    if operations.migration_context.as_sql:
        _print(operations, operation, operation.statements())
        return
    connection = operations.get_bind()
    table = _reflected(connection, operation)
    declare(table, operation.options)
    install_triggers(connection, table, lock_timeout=operation.lock_timeout)
    triggers = table_triggers(connection, table)
    disabled = _disabled.get(operations.migration_context, {}).pop(triggers.oid or 0, ())
    execute(connection, [f"ALTER TABLE {triggers.name} DISABLE TRIGGER {n}" for n in disabled])


def drop(operations: Operations, operation: DropRowTriggersOp) -> None:
    """Remove the triggers, or print the SQL that does."""
    if not _is_postgresql(operations):
        return
    if operations.migration_context.as_sql:
        _print(operations, operation, operation.statements())
        return
    connection = operations.get_bind()
    # Without its columns: the key and the columns may be others by now.
    table = Table(operation.table_name, MetaData(), schema=operation.schema)
    oid = table_triggers(connection, table).oid or 0
    disabled = tables_in_catalog(connection, [oid])[oid].disabled
    _disabled.setdefault(operations.migration_context, {})[oid] = disabled
    remove_triggers(connection, table, lock_timeout=operation.lock_timeout)


def upgrade(operations: Operations, operation: UpgradeRowTriggersOp) -> None:
    """Install the triggers of the role's tables again, with the options that they have.

    A table that cannot be upgraded is left as it is, with a warning.

    Raises:
        TriggerError: None of the tables can be upgraded; the error of the first one.
    """
    if not _is_postgresql(operations):
        return
    if operations.migration_context.as_sql:
        hint = "with --sql there is no database to ask: use op.create_row_triggers() for each"
        raise TriggerError("all tables with triggers", hint)
    connection = operations.get_bind()
    found = tables_with_triggers(connection)
    refused: list[TriggerError] = []
    for each in found:
        if not each.is_own:
            hint = "it belongs to another role: run op.upgrade_row_triggers() as that role, too"
            refused.append(TriggerError(f"{each.schema}.{each.name}", hint))
            continue
        table = _read(connection, each.name, each.schema)
        declare(table, each.options or TriggerOptions())
        try:
            install_triggers(connection, table, lock_timeout=operation.lock_timeout)
        except TriggerError as error:
            refused.append(error)
    if refused and len(refused) == len(found):
        raise refused[0]
    for why in refused:
        logger.warning("rowbell: op.upgrade_row_triggers() leaves triggers as they are: %s", why)


def _is_postgresql(operations: Operations) -> bool:
    """Other databases have no triggers of rowbell, as with ``create_all()``."""
    return operations.migration_context.dialect.name == "postgresql"


def _reflected(connection: Connection, operation: RowTriggersOp) -> Table:
    """The table as it is in the database, of which the operation's arguments must be true."""
    try:
        table = _read(connection, operation.table_name, operation.schema)
    except NoSuchTableError:
        why = "the table does not exist in this database"
        raise TriggerError(operation.qualified_name, why) from None
    key = {column.name for column in table.primary_key}
    if operation.key is not None and set(operation.key) != key:
        why = f"key={operation.key} is not its primary key ({', '.join(sorted(key))})"
        raise TriggerError(operation.qualified_name, why)
    unknown = [name for name in operation.columns or () if name not in table.columns]
    if unknown:
        why = f"columns={operation.columns}: it has no column {', '.join(unknown)}"
        raise TriggerError(operation.qualified_name, why)
    return table


def _read(connection: Connection, name: str, schema: str | None) -> Table:
    return Table(name, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)


def _print(operations: Operations, operation: RowTriggersOp, statements: list[str]) -> None:
    for statement in limited(statements, LockTimeout.of(operation.lock_timeout)):
        # Not execute(): some dialects would double each % here, as they do for their driver.
        operations.migration_context.impl.static_output(f"{statement};\n")
