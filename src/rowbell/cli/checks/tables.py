"""The triggers of tables, also compared with what models declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rowbell._watch.database.inspection import TriggerState
from rowbell._watch.database.install import trigger_status
from rowbell._watch.database.installed import table_of, tables_with_triggers
from rowbell._watch.database.tables import TriggerOptions, declared_columns, table_triggers
from rowbell.cli.checks.finding import Finding, Outcome
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.target import Target

_FIXES: Final = {
    TriggerState.OUTDATED: "rowbell upgrade, or rowbell install with the options that are wanted",
    TriggerState.DISABLED: "ALTER TABLE … ENABLE TRIGGER, or rowbell remove and install",
    TriggerState.MISSING: "rowbell install",
    TriggerState.UNTRUSTED: "see the check of trust",
}


async def triggers(engine: AsyncEngine, target: Target) -> list[Finding]:
    """Each table that has triggers, and each that models declare."""
    async with engine.connect() as connection:
        return await connection.run_sync(_triggers, target.models)


def _triggers(connection: Connection, models: list[Table] | None) -> list[Finding]:
    found = {table.oid: table for table in tables_with_triggers(connection)}
    findings: list[Finding] = []
    for table in models or ():
        try:
            oid = table_triggers(connection, table).oid or 0
        except TriggerError as error:
            findings.append(Finding(f"table {table.fullname}", Outcome.FAILED, str(error)))
            continue
        has = found.pop(oid, None)
        declared, there = declared_columns(table), has and has.options and has.options.columns
        evidence = ""
        if has is not None and declared != there:
            evidence = f", columns {_listed(there)} where the model declares {_listed(declared)}"
        findings.append(_finding(connection, table, evidence))
    for other in found.values():
        table = table_of(other, other.options or TriggerOptions())
        findings.append(_finding(connection, table, ""))
    if not findings:
        fix = "rowbell install TABLE, or install them by a migration"
        return [Finding("tables", Outcome.WARNING, "no table has triggers", fix)]
    return findings


def _finding(connection: Connection, table: Table, evidence: str) -> Finding:
    name = f"table {table.fullname}"
    try:
        [status] = trigger_status(connection, table)
    except TriggerError as error:
        return Finding(name, Outcome.FAILED, str(error))
    is_well = status.state is TriggerState.INSTALLED
    outcome = Outcome.OK if is_well else Outcome.FAILED
    fix = _FIXES.get(status.state, "")
    return Finding(name, outcome, f"its triggers are {status.state}{evidence}", fix)


def _listed(columns: object) -> str:
    return "all" if columns is None else ", ".join(map(str, columns))  # type: ignore[call-overload]
