"""The processes that wait: with a watcher, without, with passing ones, or through a relay."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

import plan
import rowbell
from aims import request
from log import Log
from manners import stopped
from rowbell import NotFoundError, RowWatcher, Timing, WaitTimeoutError, WatcherStateError
from tables import MODELS, TIMES, Stamped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import URL

    from rowbell.relay import NatsNotifier, SocketNotifier

OWN_ALLOWANCE: Final = 1.0 + 1.2
"""The delay that ``TIMES`` may add to noticing a change: a heartbeat, and the backoff."""

RELAY_ALLOWANCE: Final = 3.0 + 3.0 + 3.0
"""What a relay may add: an answered ping counts for so long; then the server ends a silent leader's
session, and the process pauses before it looks for its relay again."""

SHARED_HEARTBEAT: Final = 10.0
SHARED_BACKOFF: Final = 36.0
"""The same for watchers that ``wait_for_row_change`` opens. They poll during that time."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The actors that wait in one process.

    Attributes:
        name: The process's name.
        manner: ``"steady"``, ``"passing"`` or ``"alone"``: whether watchers are opened; or
            ``"relayed"``: they listen through a relay.
        seed: The run's seed.
        url: The database.
        actors: The number of actors.
        places: The number of engines that they share.
        until: The time at which they stop.
        heartbeat: The time between two heartbeats of its watchers, in seconds.
        directory: The directory of the logs.
        through: What its watchers listen through, by place; nothing if they listen themselves.
    """

    name: str
    manner: str
    seed: int
    url: URL
    actors: int
    places: int
    until: float
    heartbeat: float
    directory: Path
    through: Sequence[SocketNotifier | NatsNotifier] = ()


@dataclass(eq=False, slots=True)
class Place:
    """An engine and its open watcher."""

    name: str
    engine: AsyncEngine
    watcher: RowWatcher | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    known: dict[tuple[str, int], Stamped] = field(default_factory=dict)


def run(crowd: Crowd) -> None:
    """The process's main function."""
    logging.basicConfig(
        filename=crowd.directory / f"{crowd.name}.log",
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    with Log(crowd.directory / f"{crowd.name}.jsonl") as log:
        asyncio.run(_wait_all(crowd, log))


async def _wait_all(crowd: Crowd, log: Log) -> None:
    places = [
        Place(
            f"{crowd.name}-{number}",
            create_async_engine(
                crowd.url,
                pool_pre_ping=number % 2 == 1,
                pool_size=20,
                max_overflow=0,
                connect_args={"server_settings": {"application_name": f"soak {crowd.name}"}},
            ),
        )
        for number in range(crowd.places)
    ]
    for place in places:
        await _read_all(place)
    closing = asyncio.Event()
    keepers = [
        asyncio.create_task(_keep(crowd, place, log, number, closing))
        for number, place in enumerate(places)
        if crowd.manner != "alone"
    ]
    with anyio.move_on_after(crowd.until - time.monotonic()):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_look, places, log)
            for number in range(crowd.actors):
                actor = Actor(crowd, f"{crowd.name}-{number}", places[number % len(places)], log)
                tasks.start_soon(actor.run)
    closing.set()
    for keeper in keepers:
        await keeper
    left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    log.write("end", name=crowd.name, tasks=left)
    for place in places:
        await place.engine.dispose()


async def _read_all(place: Place) -> None:
    """Read all rows shortly before the waits begin."""
    async with AsyncSession(place.engine, expire_on_commit=False) as session:
        for table, model in MODELS.items():
            for row in await session.scalars(select(model)):
                place.known[table, row.id] = row


async def _look(places: list[Place], log: Log) -> None:
    """Log regularly how the waits are served."""
    while True:
        await asyncio.sleep(1)
        for place in places:
            if place.watcher is not None:
                now = place.watcher.statistics()
                log.write(
                    "sample",
                    place=place.name,
                    at=time.monotonic(),
                    state=now.state,
                    armed=now.armed,
                    polled=now.polled,
                    queries=now.queries,
                    rereads=now.rereads,
                    notifications=now.notifications,
                )


async def _keep(crowd: Crowd, place: Place, log: Log, number: int, closing: asyncio.Event) -> None:
    """Keep a watcher open for a place, permanently or with pauses."""
    draw = random.Random(f"{crowd.seed}:{place.name}")
    times = {**TIMES, "heartbeat": crowd.heartbeat}
    passing = crowd.manner == "passing"
    while not closing.is_set():
        watcher = RowWatcher(
            place.engine,
            recheck=5.0 if passing and number % 3 == 2 else None,
            notifier=crowd.through[number] if crowd.through else None,
            timing=Timing(**times),
        )
        try:
            async with watcher:
                log.write("opened", place=place.name, at=time.monotonic())
                place.watcher = watcher
                place.opened.set()
                with anyio.move_on_after(draw.uniform(2, 8) if passing else None):
                    await closing.wait()
                place.watcher = None
                place.opened.clear()
                log.write("closing", place=place.name, at=time.monotonic())
        except WatcherStateError:  # a wait without a watcher has opened another
            await asyncio.sleep(0.05)
        else:
            log.write("closed", place=place.name, at=time.monotonic())
            await asyncio.sleep(0 if closing.is_set() else draw.uniform(0, 1))


class Actor:
    """Makes one wait after the other.

    Args:
        crowd: The actors of the process.
        name: Its name. Its operations depend on it.
        place: The engine that it uses.
        log: The log.
    """

    def __init__(self, crowd: Crowd, name: str, place: Place, log: Log) -> None:
        self._crowd = crowd
        self._name = name
        self._place = place
        self._log = log

    async def run(self) -> None:
        """Wait repeatedly until canceled."""
        for k, operation in enumerate(plan.waits(self._crowd.seed, self._name)):
            await asyncio.sleep(operation.pause)
            if self._crowd.manner != "alone":
                await self._place.opened.wait()
            await self._wait(k, operation)

    async def _wait(self, k: int, operation: plan.Wait) -> None:
        known = self._place.known.get((operation.table, operation.key))
        if operation.fresh or known is None:
            known = await self._read(operation)
        facts, arguments = request(operation, known)
        call = self._call(operation, arguments)
        record: dict[str, Any] = {
            "actor": self._name,
            "k": k,
            "place": self._place.name,
            "table": operation.table,
            "key": operation.key,
            "aim": operation.aim,
            "manner": self._crowd.manner,
            "session": operation.with_session,
            "timeout": operation.timeout,
            "interval": operation.interval,
            "stop": operation.stop if operation.manner else None,
            "allow": self._allowance(operation),
            "seen": None,
            "error": None,
            "asked": operation.aim.endswith("predicate") and not operation.with_session,
            **facts,
        }
        begun = time.monotonic()
        outcome = "cancelled"
        try:
            row = await stopped(call, operation)
            if row is not None:
                outcome, record["seen"] = "changed", [row.version, row.mark, row.n]
                self._place.known[operation.table, operation.key] = row
        except NotFoundError as error:
            outcome = "deleted" if error.deleted else "not found"
        except WaitTimeoutError as error:
            outcome, record["error"] = "timeout", error.served
        except WatcherStateError as error:
            outcome, record["error"] = "closed", str(error)
        except Exception as error:  # noqa: BLE001  # the oracle judges it
            outcome, record["error"] = "error", f"{type(error).__name__}: {error}"[:400]
            record["raised"] = _frames(error)
        finally:
            ended = time.monotonic()
            self._log.write("wait", outcome=outcome, begun=begun, ended=ended, **record)
        if outcome == "error":
            await asyncio.sleep(0.5)

    async def _call(self, operation: plan.Wait, arguments: Mapping[str, Any]) -> Stamped:
        model, watcher = MODELS[operation.table], self._place.watcher
        if watcher is not None and not operation.with_session:
            return await watcher.wait_for_change(model, operation.key, **arguments)
        session = AsyncSession(self._place.engine, expire_on_commit=False)
        try:
            return await rowbell.wait_for_row_change(session, model, operation.key, **arguments)
        finally:
            with suppress(Exception):  # a lost connection here is no error of the wait
                await asyncio.shield(session.close())

    async def _read(self, operation: plan.Wait) -> Stamped | None:
        """Read the current row. Errors of this read are not tested."""
        while True:
            with suppress(Exception):
                engine = self._place.engine.execution_options(isolation_level="AUTOCOMMIT")
                async with AsyncSession(engine, expire_on_commit=False) as session:
                    return await session.get(MODELS[operation.table], operation.key)
            await asyncio.sleep(0.2)

    def _allowance(self, operation: plan.Wait) -> float:
        if self._crowd.manner == "alone":
            return SHARED_HEARTBEAT + min(operation.interval, SHARED_BACKOFF)
        return OWN_ALLOWANCE + (RELAY_ALLOWANCE if self._crowd.through else 0.0)


def _frames(error: Exception) -> list[str]:
    """The frames of rowbell in the traceback, to find the cause."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "rowbell" in frame.filename
    ]
