"""Count the calls of rowbell's functions by a statement."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def calls(writer: AsyncConnection, statement: str) -> dict[str, int]:
    """How often a transaction with that statement calls each of rowbell's functions."""
    seen = text(
        "SELECT split_part(funcname, '_', 1), sum(calls)::int FROM pg_stat_xact_user_functions"
        " WHERE schemaname = 'rowbell' GROUP BY 1"
    )
    # Earlier calls may not be in the server's statistics yet.
    before: Counter[str] = Counter({row[0]: row[1] for row in await writer.execute(seen)})
    await writer.execute(text(statement))
    after: Counter[str] = Counter({row[0]: row[1] for row in await writer.execute(seen)})
    await writer.commit()
    return after - before
