"""Installs the triggers of tables, removes them, and reports their state.

The three functions take SQLAlchemy's synchronous ``Connection``. Alembic calls them directly.
asyncio code uses ``AsyncConnection.run_sync``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._mapping import ModelOrTable, tables_of
from rowbell._sqlstate import DEPENDENT_OBJECTS_STILL_EXIST, UNDEFINED_FUNCTION, has_sqlstate
from rowbell._watch.database.ddl import (
    as_owner_of_the_schema,
    execute,
    in_terms_of_pg_catalog,
    installing,
)
from rowbell._watch.database.inspection import (
    Found,
    TriggerState,
    TriggerStatus,
    functions_of,
    inspect_triggers,
    removable,
)
from rowbell._watch.database.schema import (
    SCHEMA,
    SchemaState,
    SchemaStatus,
    schema_statements,
    schema_status,
)
from rowbell._watch.database.tables import located, resolve, table_triggers
from rowbell._watch.database.triggers import announcement, drop_statements
from rowbell._watch.database.trust import TRIGGER_FUNCTION, untrusted_owners
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rowbell._watch.database.triggers import TableTriggers


class KeyWithoutHashError(TriggerError):
    """The type of a table's key has no hash function, so triggers cannot identify its rows."""


def install_triggers(
    connection: Connection, *models: ModelOrTable, lock_timeout: LockTimeoutValue = "2s"
) -> list[str]:
    """Install the triggers of models and what they need, unless already installed.

    Creating a trigger takes a SHARE ROW EXCLUSIVE lock on its table. The lock waits for active
    writers, and later writers wait for the lock; hence the lock timeout. If nothing differs, no
    lock is taken and only the catalog is read. A disabled trigger stays disabled.

    Args:
        connection: A connection to PostgreSQL, in a transaction.
        models: Mapped classes (all of their tables) or tables.
        lock_timeout: The longest wait for a lock: a text in PostgreSQL's form (``"2s"``),
            seconds, or a ``timedelta``.

    Returns:
        The statements that were executed; none if everything was already installed.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        InvalidArgumentError: ``lock_timeout`` is invalid.
        TriggerError: The table does not exist, has no primary key, or its key has a type without
            a hash function; it is a view, a foreign table or a single partition; the connection
            is in AUTOCOMMIT; the current role may not install there; the schema ``rowbell`` has a
            later version that this library does not work with; or it belongs to a role that
            cannot change the table.
        LockTimeoutError: A lock was not acquired within ``lock_timeout``.

    Example:
        .. code-block:: python

            async with engine.begin() as connection:
                await connection.run_sync(rowbell.install_triggers, Order)
    """
    timeout = LockTimeout.of(lock_timeout, "lock_timeout")
    executed: list[str] = []
    wanted = [table_triggers(connection, table) for table in tables_of(models)]
    with in_terms_of_pg_catalog(connection):
        for triggers in wanted:
            executed += _install(connection, triggers, timeout)
    return executed


_WRONG = {TriggerState.MISSING, TriggerState.OUTDATED, TriggerState.UNTRUSTED}


def _install(connection: Connection, named: TableTriggers, timeout: LockTimeout) -> list[str]:
    executed: list[str] = []
    schema, triggers, found = look(connection, named)
    if not schema.is_usable or found.state in _WRONG:
        with installing(connection, triggers.name, timeout):
            # Look again under the lock.
            schema, triggers, found = look(connection, named)
            if not schema.is_usable:
                executed += _install_schema(connection, schema, triggers)
                found = inspect_triggers(connection, triggers, schema_status(connection))
            if found.state in _WRONG:
                executed += _install_table(connection, schema, triggers, found)
            _refuse(connection, triggers, schema_status(connection), installed=True)
    return executed


def look(connection: Connection, named: TableTriggers) -> tuple[SchemaStatus, TableTriggers, Found]:
    """The schema's status, the triggers that the table should have, and those that it has.

    Raises:
        TriggerError: They cannot be installed.
    """
    schema = schema_status(connection)
    triggers = _placed(connection, resolve(connection, named), schema)
    _refuse(connection, triggers, schema)
    return schema, triggers, inspect_triggers(connection, triggers, schema)


def _placed(connection: Connection, triggers: TableTriggers, schema: SchemaStatus) -> TableTriggers:
    """The triggers, with the schema of their function: one in which the role may create it."""
    if schema.state is SchemaState.MISSING or schema.mine:
        return triggers
    return replace(triggers, role=connection.scalar(text("SELECT current_user")))


def _refuse(
    connection: Connection,
    triggers: TableTriggers,
    schema: SchemaStatus,
    *,
    installed: bool = False,
) -> None:
    """Refuse a schema that this library does not work with or that is not trusted.

    Installing replaces a trigger function that is not trusted. Afterwards there must be none.
    """
    if schema.state is SchemaState.INCOMPATIBLE:
        why = f"the schema {SCHEMA} has version {schema.version}, which requires a newer rowbell"
        raise TriggerError(triggers.name, why)
    for _, what, role in untrusted_owners(connection, [triggers.oid or 0]):
        if installed or what != TRIGGER_FUNCTION:
            why = (
                f"{what} belongs to {role}, and every writer of the table would run its code. Make "
                "the table's owner or a superuser the owner (ALTER … OWNER TO, REVOKE CREATE). If "
                f"nobody uses the schema, you can also DROP SCHEMA {SCHEMA} CASCADE"
            )
            raise TriggerError(triggers.name, why)
    if schema.state is SchemaState.INCOMPLETE and not schema.mine:
        why = f"the schema {SCHEMA} must be repaired by its owner {schema.owner}: "
        raise TriggerError(triggers.name, why + "; ".join(schema.differences))


def _install_schema(
    connection: Connection, schema: SchemaStatus, triggers: TableTriggers
) -> list[str]:
    statements = schema_statements()
    if schema.owner is None:
        # Not IF NOT EXISTS: another role may have created it meanwhile.
        execute(connection, [f"CREATE SCHEMA {SCHEMA}"])
    with as_owner_of_the_schema(connection, schema.owner):
        execute(connection, statements)
    after = schema_status(connection)
    if after.state is not SchemaState.INSTALLED:
        why = f"the schema {SCHEMA} cannot be repaired: {'; '.join(after.differences)}"
        raise TriggerError(triggers.name, f"{why}. DROP SCHEMA {SCHEMA} CASCADE, and install again")
    return statements


def _install_table(
    connection: Connection, schema: SchemaStatus, triggers: TableTriggers, found: Found
) -> list[str]:
    # In the order in which applications lock them: a table before its partitions.
    mode = "ACCESS EXCLUSIVE" if found.superfluous else "SHARE ROW EXCLUSIVE"
    lock = [f"LOCK TABLE {triggers.name} IN {mode} MODE"]
    function = triggers.create_function()
    create = [f"DROP TRIGGER {name} ON {triggers.name}" for name in found.superfluous]
    create += triggers.create_triggers()
    create += [f"ALTER TABLE {triggers.name} DISABLE TRIGGER {name}" for name in found.disabled]
    before = removable(connection, triggers.oid).functions
    _refuse_key_without_hash(connection, triggers)
    execute(connection, lock)
    with as_owner_of_the_schema(connection, None if triggers.role else schema.owner):
        execute(connection, function)
    create.append(announcement(triggers.name))
    execute(connection, create)
    return [*lock, *function, *create, *_drop_unused(connection, before)]


def _refuse_key_without_hash(connection: Connection, triggers: TableTriggers) -> None:
    try:
        with connection.begin_nested():
            execute(connection, [triggers.check_key()])
    except DBAPIError as error:
        if not has_sqlstate(error, UNDEFINED_FUNCTION):
            raise
        why = f"the type of its key has no hash function ({error.orig}); without @watched its rows"
        why += " are polled"
        raise KeyWithoutHashError(triggers.name, why) from error


def remove_triggers(
    connection: Connection, *models: ModelOrTable, lock_timeout: LockTimeoutValue = "2s"
) -> list[str]:
    """Remove the triggers of models, and the functions that no other trigger runs.

    The schema ``rowbell`` stays, because it is shared. ``DROP SCHEMA rowbell CASCADE`` removes
    everything, including the triggers of all tables.

    Args:
        connection: A connection to PostgreSQL, in a transaction.
        models: Mapped classes (all of their tables) or tables.
        lock_timeout: The longest wait for a lock: a text in PostgreSQL's form (``"2s"``),
            seconds, or a ``timedelta``.

    Returns:
        The statements that were executed; none if there were no triggers.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        InvalidArgumentError: ``lock_timeout`` is invalid.
        TriggerError: The table does not exist, or is a single partition; or the connection is in
            AUTOCOMMIT.
        LockTimeoutError: A lock was not acquired within ``lock_timeout``.
    """
    timeout = LockTimeout.of(lock_timeout, "lock_timeout")
    executed: list[str] = []
    wanted = [table_triggers(connection, table) for table in tables_of(models)]
    with in_terms_of_pg_catalog(connection):
        for triggers in wanted:
            executed += _remove(connection, located(connection, triggers), timeout)
    return executed


def _remove(connection: Connection, triggers: TableTriggers, timeout: LockTimeout) -> list[str]:
    found = removable(connection, triggers.oid)
    if not found.functions:
        return []
    if found.of_another:
        why = "it is a partition; remove the triggers from the partitioned table"
        raise TriggerError(triggers.name, why)
    statements = drop_statements(triggers.name)
    with installing(connection, triggers.name, timeout, "ACCESS EXCLUSIVE"):
        execute(connection, statements)
        statements += _drop_unused(connection, found.functions)
    return statements


def _drop_unused(connection: Connection, functions: Iterable[int]) -> list[str]:
    """Drop those of these trigger functions that no trigger runs any more.

    Anybody may make something that depends on one, such as a view. Then it is left.
    """
    dropped: list[str] = []
    for row in functions_of(connection, functions):
        if not row.mine or row.used:
            continue
        statement = f"DROP FUNCTION {row.name}()"
        try:
            with connection.begin_nested():
                execute(connection, [statement])
        except DBAPIError as error:
            if not has_sqlstate(error, DEPENDENT_OBJECTS_STILL_EXIST):
                raise
        else:
            dropped.append(statement)
    return dropped


def trigger_status(connection: Connection, *models: ModelOrTable) -> list[TriggerStatus]:
    """The state of the triggers on the tables of models.

    Args:
        connection: A connection to PostgreSQL.
        models: Mapped classes (all of their tables) or tables.

    Returns:
        One entry for each table, in the given order.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        TriggerError: The table does not exist, or cannot have triggers.

    Example:
        .. code-block:: python

            async with engine.connect() as connection:
                for status in await connection.run_sync(rowbell.trigger_status, Order):
                    print(status.table, status.state)
    """
    named = [table_triggers(connection, table) for table in tables_of(models)]
    with in_terms_of_pg_catalog(connection):
        schema = schema_status(connection)
        return [
            TriggerStatus(
                triggers.schema,
                triggers.table,
                _state(
                    connection, _placed(connection, resolve(connection, triggers), schema), schema
                ),
            )
            for triggers in named
        ]


def _state(connection: Connection, triggers: TableTriggers, schema: SchemaStatus) -> TriggerState:
    is_trusted = not untrusted_owners(connection, [triggers.oid or 0])
    found = inspect_triggers(connection, triggers, schema, is_trusted=is_trusted).state
    if not is_trusted:
        return TriggerState.UNTRUSTED if found is not TriggerState.MISSING else found
    return found if schema.is_usable or found is TriggerState.MISSING else TriggerState.OUTDATED
