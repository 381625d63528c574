"""Puts the triggers on a table, takes them off, and says what stands there.

All three work on SQLAlchemy's sync ``Connection``: Alembic uses them as they are, asyncio
code through ``AsyncConnection.run_sync``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import DDL, Connection, text
from sqlalchemy.exc import DBAPIError

from rowbell.errors import LockTimeoutError, TriggerError
from rowbell.lock_timeout import LockTimeout, LockTimeoutValue
from rowbell.mapping import ModelOrTable, tables_of
from rowbell.postgresql import LOCK_NOT_AVAILABLE, has_sqlstate
from rowbell.watch.schema import FINGERPRINT, TRIGGERS, schema_statements
from rowbell.watch.tables import table_triggers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

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
        InvalidArgumentError: ``lock_timeout`` is none.
        TriggerError: There is no such table, it has no primary key, it is a view, a foreign
            table or a single partition, or the connection is in AUTOCOMMIT.
        LockTimeoutError: The lock was not to be had in time.

    Example:
        .. code-block:: python

            async with engine.begin() as connection:
                await connection.run_sync(rowbell.install_triggers, Order)
    """
    timeout = LockTimeout.of(lock_timeout, "lock_timeout")
    executed: list[str] = []
    for triggers in [table_triggers(connection, table) for table in tables_of(models)]:
        found = _inspect(connection, triggers)
        statements = [] if _schema_stands(connection) else schema_statements()
        if found.state in {TriggerState.MISSING, TriggerState.OUTDATED}:
            statements += [triggers.create_function(), *triggers.create_triggers()]
            statements += [
                f"ALTER TABLE {triggers.name} DISABLE TRIGGER {name}" for name in found.disabled
            ]
        if statements:
            with _limited(connection, triggers.name, timeout):
                _execute(connection, statements)
        executed += statements
    return executed


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
        InvalidArgumentError: ``lock_timeout`` is none.
        TriggerError: There is no such table, or the connection is in AUTOCOMMIT.
        LockTimeoutError: The lock was not to be had in time.
    """
    timeout = LockTimeout.of(lock_timeout, "lock_timeout")
    executed: list[str] = []
    for triggers in [table_triggers(connection, table) for table in tables_of(models)]:
        found = _inspect(connection, triggers)
        if not found.functions:
            continue
        statements = drop_statements(triggers.name)
        with _limited(connection, triggers.name, timeout):
            _execute(connection, statements)
            for function in sorted(found.functions):
                if not _is_used(connection, function):
                    statements.append(f"DROP FUNCTION rowbell.{function}()")
                    _execute(connection, statements[-1:])
        executed += statements
    return executed


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
    wanted = [table_triggers(connection, table) for table in tables_of(models)]
    return [
        TriggerStatus(triggers.schema, triggers.table, _inspect(connection, triggers).state)
        for triggers in wanted
    ]


def drop_statements(table: str) -> list[str]:
    """The statements that drop the triggers of a table, named as SQL."""
    return [f"DROP TRIGGER IF EXISTS {trigger} ON {table}" for trigger in TRIGGERS]


@dataclass(frozen=True, slots=True)
class _Found:
    state: TriggerState
    functions: frozenset[str]
    disabled: tuple[str, ...]


def _inspect(connection: Connection, triggers: TableTriggers) -> _Found:
    rows = connection.execute(
        text(
            "SELECT t.tgname, f.proname, t.tgenabled::text "
            "FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid "
            "JOIN pg_namespace AS n ON n.oid = f.pronamespace "
            "WHERE t.tgrelid = to_regclass(:table) AND n.nspname = 'rowbell' ORDER BY t.tgname"
        ),
        {"table": triggers.name},
    ).all()
    enabled = "A" if triggers.replicated else "O"
    if {row.tgname for row in rows} != set(TRIGGERS):
        state = TriggerState.MISSING
    elif any(row.proname != triggers.function_name for row in rows) or any(
        row.tgenabled not in {enabled, "D"} for row in rows
    ):
        state = TriggerState.OUTDATED
    elif any(row.tgenabled == "D" for row in rows):
        state = TriggerState.DISABLED
    else:
        state = TriggerState.INSTALLED
    return _Found(
        state,
        frozenset(row.proname for row in rows),
        tuple(row.tgname for row in rows if row.tgenabled == "D"),
    )


def _schema_stands(connection: Connection) -> bool:
    comment = text("SELECT obj_description(to_regnamespace('rowbell'), 'pg_namespace')")
    return bool(connection.scalar(comment) == FINGERPRINT)


def _is_used(connection: Connection, function: str) -> bool:
    used = text(
        "SELECT EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid "
        "WHERE f.proname = :function AND f.pronamespace = to_regnamespace('rowbell'))"
    )
    return bool(connection.scalar(used, {"function": function}))


def _execute(connection: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


def lock_timeout_statements(timeout: LockTimeout) -> tuple[list[str], list[str]]:
    """What limits the waits for locks in the rest of a transaction, and what ends that limit.

    The first also lets one installation run at a time.
    """
    return [
        "SELECT set_config('rowbell.lock_timeout', current_setting('lock_timeout'), true)",
        f"SELECT set_config('lock_timeout', '{timeout}', true)",
        "SELECT pg_advisory_xact_lock(hashtextextended('rowbell', 0))",
    ], ["SELECT set_config('lock_timeout', current_setting('rowbell.lock_timeout'), true)"]


@contextmanager
def _limited(connection: Connection, table: str, timeout: LockTimeout) -> Generator[None]:
    before, after = lock_timeout_statements(timeout)
    try:
        _execute(connection, before[:1])
        if not connection.scalar(text("SELECT current_setting('rowbell.lock_timeout', true)")):
            raise TriggerError(
                table, "the connection is in AUTOCOMMIT, so half of it could be done: begin() first"
            )
        _execute(connection, before[1:])
        yield
    except DBAPIError as error:
        if has_sqlstate(error, LOCK_NOT_AVAILABLE):
            raise LockTimeoutError([table], "SHARE ROW EXCLUSIVE", str(timeout)) from error
        raise
    _execute(connection, after)
