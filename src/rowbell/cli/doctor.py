"""``rowbell doctor``: everything that notifications need, checked one after the other.

It changes nothing, and works for a role without rights: what that role may not see is "unknown".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rowbell.cli.checks import activity, listening, schema, server, tables
from rowbell.cli.checks.finding import Finding, Outcome

if TYPE_CHECKING:
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


async def examine(target: Target, output: Output) -> bool:
    """Run all checks; return whether none has failed."""
    found: list[Finding] = []
    async with target.engine() as engine:
        for check in _CHECKS:
            for finding in await check(engine, target):
                found.append(finding)
                _print(finding, output)
    if output.as_json:
        output.rows([finding.as_row() for finding in found])
    failed = [finding for finding in found if finding.outcome is Outcome.FAILED]
    warned = [finding for finding in found if finding.outcome is Outcome.WARNING]
    output.line(f"{len(found)} checks: {len(failed)} failed, {len(warned)} warnings")
    return not failed


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
