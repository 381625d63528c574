"""The server, and what is in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from rowbell.cli.checks.finding import Finding, Outcome
from rowbell.cli.checks.query import rows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.target import Target

_OLDEST: Final = 14
_NEARLY_ALL: Final = 0.8


async def version(engine: AsyncEngine, _: Target) -> list[Finding]:
    """The version of PostgreSQL."""
    [(number, name)] = await rows(
        engine,
        "SELECT current_setting('server_version_num')::integer / 10000,"
        " current_setting('server_version')",
    )
    if number < _OLDEST:
        fix = f"use PostgreSQL {_OLDEST} or later"
        return [Finding("server version", Outcome.FAILED, f"PostgreSQL {name}", fix)]
    if number == _OLDEST:
        fix = "PostgreSQL 14 gets no more fixes: use a later one"
        return [Finding("server version", Outcome.WARNING, f"PostgreSQL {name}", fix)]
    return [Finding("server version", Outcome.OK, f"PostgreSQL {name}")]


async def recovery(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether it is a primary."""
    [(is_standby,)] = await rows(engine, "SELECT pg_is_in_recovery()")
    if is_standby:
        fix = "nothing notifies on a standby: give RowWatcher listen_url=<the primary>"
        return [Finding("primary", Outcome.FAILED, "the server is a standby", fix)]
    return [Finding("primary", Outcome.OK, "the server is a primary")]


async def pooler(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether a pooler is in between: it invents the process that it tells its clients."""
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        told = raw.info.backend_pid
        real = await connection.scalar(text("SELECT pg_catalog.pg_backend_pid()"))
    if told != real:
        fix = (
            "a pooler in transaction mode cannot LISTEN: give RowWatcher listen_url=<the server "
            "itself>, or use its session mode"
        )
        evidence = f"the connection says process {told}, the server {real}"
        return [Finding("no pooler", Outcome.WARNING, evidence, fix)]
    return [Finding("no pooler", Outcome.OK, f"connected to the server process {real} itself")]


async def connections(engine: AsyncEngine, _: Target) -> list[Finding]:
    """Whether there is room for a connection of each process."""
    [(used, most)] = await rows(
        engine,
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " current_setting('max_connections')::integer"
        " - current_setting('superuser_reserved_connections')::integer",
    )
    evidence = f"{used} of {most} are in use; each process with a watcher takes one more"
    if used >= _NEARLY_ALL * most:
        fix = "raise max_connections, or give the applications smaller pools"
        return [Finding("connections", Outcome.WARNING, evidence, fix)]
    return [Finding("connections", Outcome.OK, evidence)]
