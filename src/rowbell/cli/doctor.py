"""``rowbell doctor``: everything that notifications need, checked one after the other.

It changes nothing, and works for a role without rights: what that role may not see is "unknown".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from rowbell._sqlstate import INSUFFICIENT_PRIVILEGE, has_sqlstate
from rowbell.cli.checks import activity, listening, schema, server, tables
from rowbell.cli.checks.finding import Check, Finding, Outcome
from rowbell.cli.problem import first_line, redacted
from rowbell.errors import RowbellError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.output import Output
    from rowbell.cli.target import Target

_CHECKS: Final = (
    server.version,
    server.recovery,
    server.pooler,
    server.connections,
    listening.delivery,
    schema.installed,
    schema.objects,
    schema.trust,
    schema.rights,
    tables.triggers,
    activity.registrations,
    activity.listeners,
    activity.queue,
    activity.transactions,
)


async def examine(target: Target, output: Output, relay: Check | None = None) -> bool:
    """Run all checks, and that of a relay if there is one; return whether none has failed."""
    found: list[Finding] = []
    async with target.engine() as engine:
        async with engine.connect():
            pass  # without a server, nothing can be checked
        for check in (*_CHECKS, *([] if relay is None else [relay])):
            for finding in await _checked(check, engine, target):
                found.append(finding)
                _print(finding, output)
    if output.as_json:
        output.rows([finding.as_row() for finding in found])
    failed = [finding for finding in found if finding.outcome is Outcome.FAILED]
    warned = [finding for finding in found if finding.outcome is Outcome.WARNING]
    output.line(f"{len(found)} checks: {len(failed)} failed, {len(warned)} warnings")
    return not failed


async def _checked(check: Check, engine: AsyncEngine, target: Target) -> list[Finding]:
    """The findings of a check, also if it cannot be made: that may be the fault."""
    name = check.__name__.replace("_", " ")
    try:
        return await check(engine, target)
    except (DBAPIError, RowbellError) as error:
        cause = getattr(error, "orig", None) or error
        may_not = has_sqlstate(error, INSUFFICIENT_PRIVILEGE)
        fix = "call the doctor as the owner of the schema" if may_not else ""
        outcome = Outcome.UNKNOWN if may_not else Outcome.FAILED
        return [Finding(name, outcome, redacted(first_line(cause)), fix)]


_SIGNS: Final = {
    Outcome.OK: ("ok", "green"),
    Outcome.WARNING: ("warning", "yellow"),
    Outcome.FAILED: ("FAILED", "bold red"),
    Outcome.UNKNOWN: ("unknown", "dim"),
}


def _print(finding: Finding, output: Output) -> None:
    sign, style = _SIGNS[finding.outcome]
    output.line(f"{sign:<8}{finding.check}: {finding.evidence}", style)
    if finding.fix:
        output.line(f"        {finding.fix}")
