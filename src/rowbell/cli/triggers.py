"""The commands on triggers: one table after the other, with short locks, also under traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

from rowbell._watch.database.ddl import in_terms_of_pg_catalog, limited
from rowbell._watch.database.inspection import TriggerState
from rowbell._watch.database.install import (
    install_triggers,
    look,
    remove_triggers,
    trigger_status,
)
from rowbell._watch.database.installed import table_of, tables_with_triggers
from rowbell._watch.database.schema import NEWER, SCHEMA_VERSION, schema_status
from rowbell._watch.database.scripts import create_script
from rowbell._watch.database.tables import TriggerOptions, table_triggers
from rowbell._watch.database.triggers import drop_statements
from rowbell.cli.problem import ProblemError, first_line
from rowbell.cli.tables import chosen, with_triggers
from rowbell.errors import LockTimeoutError, TriggerError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._lock_timeout import LockTimeout
    from rowbell.cli.output import Output
    from rowbell.cli.target import Target

ATTEMPTS: Final = 10
PAUSE: Final = 1.0
"""The seconds between two attempts to lock a table, so that its writers go on."""

Work = Callable[[Connection, Table], list[str]]


async def status(target: Target, names: Sequence[str], output: Output) -> bool:
    """Print the state of triggers; return whether all are installed."""
    async with target.engine() as engine, engine.connect() as connection:
        rows = await connection.run_sync(_status, names, target.models)
    output.rows(rows)
    return all(row["state"] == "installed" for row in rows)


def _status(
    connection: Connection, names: Sequence[str], models: list[Table] | None
) -> list[dict[str, Any]]:
    if models is not None:
        tables = chosen(connection, names, models, TriggerOptions())
    else:
        found = with_triggers(connection, names)
        tables = [table_of(each, each.options or TriggerOptions()) for each in found]
    rows: list[dict[str, Any]] = []
    for table in tables:
        [state] = trigger_status(connection, table)
        triggers = table_triggers(connection, table)
        rows.append(
            {
                "table": table.fullname,
                "state": state.state.value,
                "columns": None if triggers.declared is None else ", ".join(triggers.declared),
                "inserts": triggers.inserts,
            }
        )
    return rows


async def sql(
    target: Target,
    names: Sequence[str],
    options: TriggerOptions,
    limit: LockTimeout,
    output: Output,
) -> None:
    """Print what ``install`` would execute."""
    async with target.engine() as engine, engine.connect() as connection:
        statements = await connection.run_sync(_sql, names, target.models, options, limit)
    output.comment(f"rowbell {version('rowbell')}, schema version {SCHEMA_VERSION}")
    output.script(["BEGIN", *statements, "COMMIT"])


def _sql(
    connection: Connection,
    names: Sequence[str],
    models: list[Table] | None,
    options: TriggerOptions,
    limit: LockTimeout,
) -> list[str]:
    tables = chosen(connection, names, models, options)
    return limited([line for table in tables for line in _script(connection, table)], limit)


def _script(connection: Connection, table: Table) -> list[str]:
    """What installs the triggers of a table as it is."""
    named = table_triggers(connection, table)
    with in_terms_of_pg_catalog(connection):
        _, triggers, found = look(connection, named)
    return create_script(triggers, found.superfluous)


async def install(
    target: Target,
    names: Sequence[str],
    options: TriggerOptions,
    limit: LockTimeout,
    output: Output,
) -> None:
    """Install the triggers of tables."""
    async with target.engine() as engine:
        async with engine.connect() as connection:
            tables = await connection.run_sync(chosen, names, target.models, options)
        await _each(engine, tables, _installing(limit), output, "installed")


def _installing(limit: LockTimeout) -> Work:
    def work(connection: Connection, table: Table) -> list[str]:
        return install_triggers(connection, table, lock_timeout=str(limit))

    return work


async def upgrade(target: Target, limit: LockTimeout, output: Output, *, dry_run: bool) -> None:
    """Install the triggers of all tables again, with the options that they have."""
    async with target.engine() as engine:
        async with engine.connect() as connection:
            found = await connection.run_sync(_upgradable, only_outdated=dry_run)
        if dry_run:
            output.rows([{"table": each.fullname, "would be": "upgraded"} for each in found])
            return
        await _each(engine, found, _installing(limit), output, "upgraded")


def _upgradable(connection: Connection, *, only_outdated: bool) -> list[Table]:
    with in_terms_of_pg_catalog(connection):
        schema = schema_status(connection)
    if schema.state in NEWER:
        why = f"the schema rowbell has the newer version {schema.version}: update rowbell instead"
        raise ProblemError(why, 1)
    tables = [
        table_of(found, found.options or TriggerOptions())
        for found in tables_with_triggers(connection)
    ]
    if not only_outdated:
        return tables
    fine = {TriggerState.INSTALLED, TriggerState.DISABLED}
    return [table for table in tables if trigger_status(connection, table)[0].state not in fine]


async def remove(
    target: Target, names: Sequence[str], limit: LockTimeout, output: Output, *, dry_run: bool
) -> None:
    """Remove the triggers of tables."""
    async with target.engine() as engine:
        async with engine.connect() as connection:
            found = await connection.run_sync(with_triggers, names)
            tables = [table_of(each, TriggerOptions()) for each in found]
            if dry_run:
                wanted = await connection.run_sync(
                    lambda sync: [table_triggers(sync, table).name for table in tables]
                )
                lines = [line for name in wanted for line in drop_statements(name)]
                output.comment("and DROP FUNCTION, of the functions that no other table uses")
                output.script(["BEGIN", *limited(lines, limit), "COMMIT"])
                return

        def work(connection: Connection, table: Table) -> list[str]:
            return remove_triggers(connection, table, lock_timeout=str(limit))

        await _each(engine, tables, work, output, "removed")


async def _each(
    engine: AsyncEngine, tables: Sequence[Table], work: Work, output: Output, done: str
) -> None:
    """Work on one table after the other, each in its own transaction.

    Raises:
        ProblemError: A table could not be locked, or cannot be worked on. Those before are done.
    """
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    for number, table in enumerate(tables, 1):
        name = table.fullname
        try:
            executed = await _under_traffic(engine, table, work, output)
        except (TriggerError, LockTimeoutError, DBAPIError) as error:
            cause = getattr(error, "orig", None) or error
            hint = ": try again, or give --lock-timeout"
            hint = hint if isinstance(error, LockTimeoutError) else ""
            refused.append(f"{name}: {first_line(cause)}{hint}")
            rows.append({"table": name, "result": "failed"})
        else:
            rows.append({"table": name, "result": done if executed else "unchanged"})
        output.line(f"{number} of {len(tables)}: {name} {rows[-1]['result']}")
    if output.as_json:
        output.rows(rows)
    if refused:
        raise ProblemError("; ".join(refused), 1)


async def _under_traffic(
    engine: AsyncEngine, table: Table, work: Work, output: Output
) -> list[str]:
    """Work on a table. If it is locked, again a moment later, when its writers have gone on."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work, table)
        except LockTimeoutError:
            if attempt == ATTEMPTS:
                raise
            output.line(f"{table.fullname} is in use: attempt {attempt} of {ATTEMPTS}", "yellow")
            await asyncio.sleep(PAUSE)
    raise AssertionError  # the last attempt has returned or raised
