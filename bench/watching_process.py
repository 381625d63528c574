"""A process with watchers, each with an engine of its own, and waits for as many rows."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

import rowbell
from processes import say, told_to_end
from relayed import notifier
from table import model

OPENING = 16
"""So many watchers are opened at the same time."""

PAUSE = 0.1
"""The seconds between two lines."""


class Watching:
    """The watchers, and their waits."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.watchers: list[rowbell.RowWatcher] = []
        self.woken = 0
        self.last = 0.0
        self._given = given
        self._opening = asyncio.Semaphore(OPENING)

    async def watch(self, number: int, ending: asyncio.Event) -> None:
        """Have one watcher and its waits until all shall end."""
        given = self._given
        engine = create_async_engine(make_url(given["url"]), pool_size=1, max_overflow=0)
        waits = given["waits"]
        first = given.get("after", 0) + 1 + (given["number"] * given["watchers"] + number) * waits
        through = notifier(given["through"]) if given["through"] else None
        watcher = rowbell.RowWatcher(engine, notifier=through, recheck=None)
        async with self._opening:
            await watcher.__aenter__()
        self.watchers.append(watcher)
        tasks = [
            asyncio.create_task(self._wait(watcher, key)) for key in range(first, first + waits)
        ]
        await ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await watcher.aclose()
        await engine.dispose()

    async def _wait(self, watcher: rowbell.RowWatcher, key: int) -> None:
        row, interval = model(self._given["table"]), self._given["interval"]
        seen = 0
        while True:
            found = await watcher.wait_for_change(row, key, since={"n": seen}, interval=interval)
            seen = found.n
            self.woken += 1
            self.last = time.monotonic()

    async def tell(self) -> None:
        """Say how all are."""
        while True:
            now = [watcher.statistics() for watcher in self.watchers]
            say(
                open=len(now),
                armed=sum(one.armed for one in now),
                polled=sum(one.polled for one in now),
                queries=sum(one.queries for one in now),
                woken=self.woken,
                last=self.last,
            )
            await asyncio.sleep(PAUSE)


async def main() -> None:
    """Watch until stdin is closed."""
    given = json.loads(sys.argv[1])
    watching, ending = Watching(given), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(given["watchers"]):
            tasks.create_task(watching.watch(number, ending))
        telling = tasks.create_task(watching.tell())
        with suppress(KeyboardInterrupt):
            await told_to_end()
        ending.set()
        telling.cancel()
    say(ended=1)


if __name__ == "__main__":
    asyncio.run(main())
