"""What goes on in the server: registrations, listeners, the queue, and long transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rowbell.cli.checks.finding import Finding, Outcome
from rowbell.cli.checks.query import rows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.target import Target

_LARGE: Final = 256 * 1024 * 1024
_HALF: Final = 0.5
_LONG: Final = 60


async def _of_schema(engine: AsyncEngine, query: str) -> list[Any]:
    """The rows of a query on rowbell's tables, if they exist."""
    exists = "SELECT to_regclass('rowbell.registration') IS NOT NULL"
    [(is_there,)] = await rows(engine, exists)
    return await rows(engine, query) if is_there else []


async def registrations(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Registrations without a listener, and the size of the table."""
    found = await _of_schema(
        engine,
        "SELECT count(*), count(*) FILTER (WHERE a.pid IS NULL),"
        " pg_total_relation_size('rowbell.registration')"
        " FROM rowbell.registration AS r LEFT JOIN rowbell.listener AS l ON l.number = r.listener"
        " LEFT JOIN pg_stat_activity AS a ON a.pid = l.backend_pid",
    )
    if not found:
        return []
    [(count, stale, size)] = found
    evidence = f"{count} rows are registered, {stale} without a session; {size // 1024} KiB"
    if stale:
        fix = "the next heartbeat of any listener deletes them; SELECT rowbell.delete_stale() now"
        return [Finding("registrations", Outcome.WARNING, evidence, fix)]
    if size > _LARGE:
        fix = "an old transaction keeps deleted rows: end it, then SELECT rowbell.compact()"
        return [Finding("registrations", Outcome.WARNING, evidence, fix)]
    return [Finding("registrations", Outcome.OK, evidence)]


async def listeners(engine: AsyncEngine, _: Target) -> list[Finding]:
    """The sessions that listen, and for how long."""
    found = await _of_schema(
        engine,
        "SELECT l.backend_pid, a.application_name, l.registrations,"
        " date_trunc('second', now() - l.backend_start)"
        " FROM rowbell.listener AS l JOIN pg_stat_activity AS a ON a.pid = l.backend_pid"
        " ORDER BY l.number",
    )
    shown = [
        f"process {pid} ({application or 'without a name'}), since {age}, {registered} rows"
        for pid, application, registered, age in found
    ]
    evidence = "; ".join(shown) or "none now"
    return [Finding("listeners", Outcome.OK, evidence)]


async def queue(engine: AsyncEngine, _: Target) -> list[Finding]:
    """How full the notification queue is, and who may hold it up."""
    [(usage,)] = await rows(engine, "SELECT pg_notification_queue_usage()")
    oldest = await rows(
        engine,
        "SELECT pid, application_name, date_trunc('second', now() - xact_start)"
        " FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend' ORDER BY xact_start LIMIT 1",
    )
    evidence = f"{100 * usage:.0f} % is used"
    if usage > _HALF:
        for pid, application, age in oldest:
            evidence += f"; the oldest transaction: process {pid} ({application}), {age}"
        fix = "a listening session in a long transaction holds it up: end it (pg_terminate_backend)"
        return [Finding("notification queue", Outcome.FAILED, evidence, fix)]
    return [Finding("notification queue", Outcome.OK, evidence)]


async def transactions(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Long transactions that have written: until they end, waits for their tables are polled."""
    written = await rows(
        engine,
        "SELECT pid, application_name, date_trunc('second', now() - xact_start)"
        " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
        " AND now() - xact_start > make_interval(secs => :seconds) ORDER BY xact_start",
        seconds=_LONG,
    )
    prepared = await rows(
        engine,
        "SELECT gid, date_trunc('second', now() - prepared) FROM pg_prepared_xacts"
        " WHERE now() - prepared > make_interval(secs => :seconds)",
        seconds=_LONG,
    )
    shown = [f"process {pid} ({name}), {age}" for pid, name, age in written]
    shown += [f"prepared {gid}, {age}" for gid, age in prepared]
    if shown:
        fix = "end them: waits for rows of the tables that they have written are polled until then"
        return [Finding("long transactions", Outcome.WARNING, "; ".join(shown), fix)]
    return [Finding("long transactions", Outcome.OK, f"none is older than {_LONG} s")]
