"""Whether notifications arrive, proven by one."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final

import asyncpg
from sqlalchemy import text

from rowbell._libpq import UntranslatableError
from rowbell._watch.failures import UnreachableError
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.timing import Timing
from rowbell.cli.checks.finding import Finding, Outcome

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.target import Target

_LIMIT: Final = 3.0


async def delivery(engine: AsyncEngine, _: Target) -> list[Finding]:
    """LISTEN as a watcher does, and receive what another connection sends."""
    name, arrived = "LISTEN", asyncio.Event()
    channel = f"rowbell_doctor_{secrets.token_hex(8)}"

    def receive(*_: object) -> None:
        arrived.set()

    try:
        async with ListenConnection(engine, None, None, Timing()).opened() as listening:
            await listening.add_listener(channel, receive)
            async with engine.begin() as connection:
                begun = time.perf_counter()
                await connection.execute(
                    text("SELECT pg_catalog.pg_notify(:channel, '')"), {"channel": channel}
                )
            try:
                await asyncio.wait_for(arrived.wait(), _LIMIT)
            except TimeoutError:
                evidence = f"LISTEN was accepted, but nothing arrived within {_LIMIT:g} s"
                fix = "a pooler or proxy is in between: give RowWatcher listen_url=<the server>"
                return [Finding(name, Outcome.FAILED, evidence, fix)]
            taken = 1000 * (time.perf_counter() - begun)
    except (UnreachableError, UntranslatableError, asyncpg.PostgresError, OSError) as error:
        reason = error.reason if isinstance(error, UnreachableError) else error
        fix = "a watcher would poll: give RowWatcher a listen_url that can be connected to"
        return [Finding(name, Outcome.FAILED, f"it cannot listen: {reason}", fix)]
    return [Finding(name, Outcome.OK, f"a notification arrived after {taken:.1f} ms")]
