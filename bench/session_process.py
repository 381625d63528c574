"""A process with sessions at a relay, each with its own connection, that count what they hear.

No row is read: what a relay can send is measured, and not what processes do with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from processes import say, told_to_end
from relayed import notifier
from rowbell import Timing
from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell._watch.values.key_hash import RowId
from table import model

OPENING = 8
KEY = text("SELECT CAST(:name AS regclass)::oid::bigint, hash_record_extended(ROW(1), 0)")


class Counter:
    """A receiver that counts."""

    def __init__(self) -> None:
        self.heard = 0
        self.gaps = 0

    def on_notification(self, notification: Notification) -> None:
        """One more."""
        del notification
        self.heard += 1

    def on_gap(self) -> None:
        """It has missed some."""
        self.gaps += 1


class Sessions:
    """Sessions that have registered row 1 of the table."""

    def __init__(self, engine: AsyncEngine, table: str, through: str) -> None:
        self.counter = Counter()
        self.ready = 0
        self._engine = engine
        self._table = table
        self._through = through
        self._opening = asyncio.Semaphore(OPENING)

    async def hold(self, ending: asyncio.Event) -> None:
        """Have one session."""
        async with self._engine.connect() as connection:
            oid, key_hash = (await connection.execute(KEY, {"name": self._table})).one()
        rows = MappedRows.of(model(self._table), self._engine.dialect, None)
        tables: dict[int, Any] = {oid: (rows.watched_tables[0], None)}
        made = RelayedNotifier(notifier(self._through), Connections(self._engine), Timing())
        await self._opening.acquire()
        async with made.session(self.counter) as session:
            answer = await session.register([(RowId(oid, key_hash), None)], tables)
            self._opening.release()
            if answer.boundary is None:
                raise RuntimeError(f"the row was not registered: {answer.report}")
            self.ready += 1
            await ending.wait()


async def main() -> None:
    """Listen until stdin is closed."""
    given = json.loads(sys.argv[1])
    engine = create_async_engine(make_url(given["url"]), pool_size=2)
    sessions, ending = Sessions(engine, given["table"], given["through"]), asyncio.Event()

    async def tell() -> None:
        while True:
            say(ready=sessions.ready, heard=sessions.counter.heard, gaps=sessions.counter.gaps)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(given["sessions"]):
            tasks.create_task(sessions.hold(ending))
        telling = tasks.create_task(tell())
        await told_to_end()
        ending.set()
        telling.cancel()
    await engine.dispose()
    say(ended=1)


if __name__ == "__main__":
    asyncio.run(main())
