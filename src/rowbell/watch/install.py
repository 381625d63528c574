"""Puts the triggers on a table, takes them off, and says what stands there.

All three work on SQLAlchemy's sync ``Connection``: Alembic uses them as they are, asyncio
code through ``AsyncConnection.run_sync``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from rowbell.errors import TriggerError
from rowbell.lock_timeout import LockTimeout, LockTimeoutValue
from rowbell.mapping import ModelOrTable, quote_literal, tables_of
from rowbell.watch.ddl import (
    as_owner_of_the_schema,
    execute,
    in_terms_of_pg_catalog,
    installing,
)
from rowbell.watch.schema import (
    SCHEMA,
    TRIGGERS,
    SchemaState,
    SchemaStatus,
    schema_statements,
    schema_status,
    settings,
)
from rowbell.watch.tables import resolve, table_triggers
from rowbell.watch.trust import TRIGGER_FUNCTION, untrusted_owners

if TYPE_CHECKING:
    from rowbell.watch.triggers import TableTriggers


class TriggerState(StrEnum):
    """What stands on a table."""

    INSTALLED = "installed"
    """The triggers of this version and these options, enabled."""
    OUTDATED = "outdated"
    """Triggers of another version or of other options."""
    DISABLED = "disabled"
    """At least one was disabled by ``ALTER TABLE … DISABLE TRIGGER``."""
    MISSING = "missing"
    """At least one is not there."""
    UNTRUSTED = "untrusted"
    """What they run belongs to a role that could not change the table itself, or may be created by
    one."""


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """What ``trigger_status()`` found on one table.

    Attributes:
        schema: The table's schema, ``None`` where the ``search_path`` decides.
        table: The table's name.
        state: What stands there.
    """

    schema: str | None
    table: str
    state: TriggerState


def install_triggers(
    connection: Connection, *models: ModelOrTable, lock_timeout: LockTimeoutValue = "2s"
) -> list[str]:
    """Install the triggers of models, and what they need, where it does not stand already.

    Creating a trigger takes a SHARE ROW EXCLUSIVE lock on its table, which waits for the
    writers at work and holds up those that come after; hence the lock timeout. Where nothing
    differs no lock is taken and nothing is executed but catalog reads. A disabled trigger
    stays disabled.

    Args:
        connection: A connection to PostgreSQL, in a transaction.
        models: Mapped classes (all of their tables) or tables.
        lock_timeout: The longest wait for a lock: a text as PostgreSQL takes it (``"2s"``),
            seconds, or a ``timedelta``.

    Returns:
        The statements that were executed; none where everything stood already.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        InvalidArgumentError: ``lock_timeout`` is invalid.
        TriggerError: There is no such table, it has no primary key, it is a view, a foreign
            table or a single partition; the connection is in AUTOCOMMIT; the current role may
            not install there; or the schema ``rowbell`` is of a later version that this library
            does not work with, or belongs to a role that could not change the table.
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
    schema, triggers, found = _look(connection, named)
    if not schema.is_usable or found.state in _WRONG:
        with installing(connection, triggers.name, timeout):
            # Once more, now that nobody else installs.
            schema, triggers, found = _look(connection, named)
            if not schema.is_usable:
                executed += _install_schema(connection, schema, triggers)
            if found.state in _WRONG:
                executed += _install_table(connection, schema, triggers, found)
            _refuse(connection, triggers, schema_status(connection))
    return executed


def _look(
    connection: Connection, named: TableTriggers
) -> tuple[SchemaStatus, TableTriggers, _Found]:
    """What stands there, and the triggers as they should; refuses what is not to be used."""
    schema = schema_status(connection)
    triggers = _placed(connection, resolve(connection, named), schema)
    _refuse(connection, triggers, schema)
    return schema, triggers, _inspect(connection, triggers)


def _placed(connection: Connection, triggers: TableTriggers, schema: SchemaStatus) -> TableTriggers:
    """The triggers of a table, with their function where the current role may create one."""
    if schema.state is SchemaState.MISSING or schema.mine:
        return triggers
    return replace(triggers, role=connection.scalar(text("SELECT current_user")))


def _refuse(connection: Connection, triggers: TableTriggers, schema: SchemaStatus) -> None:
    """Refuse a schema that this library does not work with, or should not."""
    if schema.state is SchemaState.INCOMPATIBLE:
        why = f"the schema {SCHEMA} has version {schema.version}, which wants a newer rowbell"
        raise TriggerError(triggers.name, why)
    for _, what, role in untrusted_owners(connection, [triggers.oid or 0]):
        if what != TRIGGER_FUNCTION:
            why = (
                f"{what} is {role}'s, whose code every writer of the table would run. Let the "
                "table's owner or a superuser own it (ALTER … OWNER TO, REVOKE CREATE), or, if "
                f"nobody uses it, DROP SCHEMA {SCHEMA} CASCADE"
            )
            raise TriggerError(triggers.name, why)
    if schema.state is SchemaState.INCOMPLETE and not schema.mine:
        why = f"the schema {SCHEMA} must be mended by its owner {schema.owner}: "
        raise TriggerError(triggers.name, why + "; ".join(schema.differences))


def _install_schema(
    connection: Connection, schema: SchemaStatus, triggers: TableTriggers
) -> list[str]:
    statements = schema_statements()
    if schema.owner is None:
        # Not IF NOT EXISTS: somebody else may have made it a moment ago.
        execute(connection, [f"CREATE SCHEMA {SCHEMA}"])
    with as_owner_of_the_schema(connection, schema.owner):
        execute(connection, statements)
    after = schema_status(connection)
    if after.state is not SchemaState.INSTALLED:
        why = f"the schema {SCHEMA} cannot be mended: {'; '.join(after.differences)}"
        raise TriggerError(triggers.name, f"{why}. DROP SCHEMA {SCHEMA} CASCADE, and install again")
    return statements


def _install_table(
    connection: Connection, schema: SchemaStatus, triggers: TableTriggers, found: _Found
) -> list[str]:
    # In the order in which the application locks them: a table before its partitions.
    lock = [f"LOCK TABLE {triggers.name} IN SHARE ROW EXCLUSIVE MODE"]
    function = triggers.create_function()
    create = triggers.create_triggers()
    create += [f"ALTER TABLE {triggers.name} DISABLE TRIGGER {name}" for name in found.disabled]
    execute(connection, lock)
    with as_owner_of_the_schema(connection, None if triggers.role else schema.owner):
        execute(connection, function)
    create.append(announcement(triggers.name))
    execute(connection, create)
    return [*lock, *function, *create]


def remove_triggers(
    connection: Connection, *models: ModelOrTable, lock_timeout: LockTimeoutValue = "2s"
) -> list[str]:
    """Remove the triggers of models, and the functions that no other table's triggers run.

    The schema ``rowbell`` stays: it is shared. ``DROP SCHEMA rowbell CASCADE`` removes
    everything, the triggers of all tables included.

    Args:
        connection: A connection to PostgreSQL, in a transaction.
        models: Mapped classes (all of their tables) or tables.
        lock_timeout: The longest wait for a lock: a text as PostgreSQL takes it (``"2s"``),
            seconds, or a ``timedelta``.

    Returns:
        The statements that were executed; none where no trigger stood.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        InvalidArgumentError: ``lock_timeout`` is invalid.
        TriggerError: There is no such table, or the connection is in AUTOCOMMIT.
        LockTimeoutError: A lock was not acquired within ``lock_timeout``.
    """
    timeout = LockTimeout.of(lock_timeout, "lock_timeout")
    executed: list[str] = []
    wanted = [table_triggers(connection, table) for table in tables_of(models)]
    with in_terms_of_pg_catalog(connection):
        for triggers in wanted:
            executed += _remove(connection, resolve(connection, triggers), timeout)
    return executed


def _remove(connection: Connection, triggers: TableTriggers, timeout: LockTimeout) -> list[str]:
    functions = sorted(_inspect(connection, triggers).functions)
    if not functions:
        return []
    statements = drop_statements(triggers.name)
    with installing(connection, triggers.name, timeout):
        execute(connection, statements)
        unused = [
            f"DROP FUNCTION {row.name}()"
            for row in connection.execute(_FUNCTIONS, {"functions": functions})
            if row.mine and not row.used
        ]
        execute(connection, unused)
    return [*statements, *unused]


def trigger_status(connection: Connection, *models: ModelOrTable) -> list[TriggerStatus]:
    """What stands on the tables of models.

    Args:
        connection: A connection to PostgreSQL.
        models: Mapped classes (all of their tables) or tables.

    Returns:
        One entry a table, in the order given.

    Raises:
        UnmappedModelError: A model is neither a mapped class nor a table.
        TriggerError: There is no such table, or none that could have triggers.

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
    found = _inspect(connection, triggers).state
    if untrusted_owners(connection, [triggers.oid or 0]):
        return TriggerState.UNTRUSTED if found is not TriggerState.MISSING else found
    return found if schema.is_usable or found is TriggerState.MISSING else TriggerState.OUTDATED


def drop_statements(table: str) -> list[str]:
    """The statements that drop the triggers of a table, named as SQL.

    The lock is taken first: DROP TRIGGER locks partitions before the table that they belong to,
    and applications the other way round.
    """
    drop = [f"DROP TRIGGER IF EXISTS {trigger} ON {table}" for trigger in TRIGGERS]
    return [f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", *drop, announcement(table)]


def announcement(table: str) -> str:
    """The statement that has listeners look at a table's triggers, at commit."""
    name = quote_literal(table)
    return f"SELECT pg_notify('rowbell', '1:' || to_regclass({name})::oid || ':?')"


@dataclass(frozen=True, slots=True)
class _Found:
    state: TriggerState
    functions: frozenset[int]
    disabled: tuple[str, ...]


_TRIGGERS = text(
    "SELECT t.tgname, t.tgtype::integer, t.tgenabled::text, t.tgargs,"
    " t.tgqual IS NOT NULL AS conditional, f.oid, f.prosrc, f.prosecdef, l.lanname,"
    " coalesce(f.proconfig, '{}') AS settings,"
    " pg_has_role(f.proowner, c.relowner, 'MEMBER')"
    " OR pg_has_role(f.proowner, current_user, 'MEMBER') AS trusted"
    " FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid"
    " JOIN pg_language AS l ON l.oid = f.prolang JOIN pg_class AS c ON c.oid = t.tgrelid"
    " WHERE t.tgrelid = :table AND t.tgname IN ('rowbell_update', 'rowbell_delete',"
    " 'rowbell_truncate') ORDER BY t.tgname"
)
_FUNCTIONS = text(
    "SELECT f.oid::regproc::text AS name, pg_has_role(f.proowner, 'USAGE') AS mine,"
    " EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = f.oid) AS used"
    " FROM pg_proc AS f WHERE f.oid = ANY(CAST(:functions AS oid[])) ORDER BY f.oid"
)


def _inspect(connection: Connection, triggers: TableTriggers) -> _Found:
    """What stands on a table, compared with what should."""
    rows = connection.execute(_TRIGGERS, {"table": triggers.oid}).all()
    function = triggers.function
    argument = triggers.options.encode() + b"\0"
    enabled = "A" if triggers.replicated else "O"
    right = all(
        row.prosrc == function.source
        and settings(row.settings) == settings(function.settings)
        and not row.prosecdef
        and row.lanname == "plpgsql"
        and bytes(row.tgargs) == argument
        and row.tgtype == triggers.types[row.tgname]
        and row.conditional == (triggers.by_row and row.tgname == TRIGGERS[0])
        and row.tgenabled in {enabled, "D"}
        for row in rows
    )
    if {row.tgname for row in rows} != set(TRIGGERS):
        state = TriggerState.MISSING
    elif not all(row.trusted for row in rows):
        state = TriggerState.UNTRUSTED
    elif not right:
        state = TriggerState.OUTDATED
    elif any(row.tgenabled == "D" for row in rows):
        state = TriggerState.DISABLED
    else:
        state = TriggerState.INSTALLED
    return _Found(
        state,
        frozenset(row.oid for row in rows),
        tuple(row.tgname for row in rows if row.tgenabled == "D"),
    )
