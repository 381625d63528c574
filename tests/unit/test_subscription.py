"""The subscription between a board and a notifier in memory loses no notification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from rowbell import Reason, Timing, WatcherState
from rowbell._watch.board.observation import Reading
from rowbell._watch.board.phases import Armed, Polled
from rowbell._watch.board.schedule import Why
from rowbell._watch.board.watch import Watch
from rowbell._watch.notifiers.memory import MemoryNotifier
from rowbell._watch.notifiers.notification import Notification
from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.state import StateLog
from rowbell._watch.subscription import Subscription
from rowbell._watch.values.key_hash import RowId
from support.boards import TABLE, a_board, a_watch

QUICK = Timing(heartbeat=0.01, narrow=0.01, backoff=0.001, backoff_limit=0.001, linger=0.01)


class Scene:
    """A board, a subscription and its notifier. Rows are read from a dictionary, without delay."""

    def __init__(self) -> None:
        self.notifier = MemoryNotifier()
        self.values = {1: 0, 2: 0}
        self.changed = asyncio.Event()
        self.state = StateLog(create_async_engine("sqlite+aiosqlite://"), self.changed.set)
        self.xmin = 0
        read, wake = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        self.board = a_board(
            loop.time, earlier=read.set, attention=wake.set, changed=self.changed.set
        )
        self.subscription = Subscription(self.board, wake, self.notifier, self.state, QUICK)
        self._read = read

    def wait_for(self, row: int) -> Watch:
        watch = a_watch(row, asyncio.get_running_loop())
        self.board.add(watch)
        return watch

    def change(self, row: int) -> None:
        self.values[row] += 1
        self.notifier.change(RowId(TABLE, row))

    async def read(self) -> None:
        """Read the rows that are due, in an endless loop."""
        while True:
            self._read.clear()
            reads = self.board.take_due()
            self.board.begin(reads)
            for read in reads:
                row = read.watch.request.key[0]
                evidence = Evidence((RowId(TABLE, row),), self.notifier.assign_xid(), 1.0)
                asked = self.board.arming.is_connected and read.why is not Why.NOTIFIED
                reading = Reading((self.values[row],), evidence=evidence if asked else None)
                if self.board.take_in(read, reading):
                    read.watch.finish(None)
                    self.board.discard(read.watch)
            self.board.answered(reads, asyncio.get_running_loop().time())
            await self._read.wait()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def armed(self, row: int) -> Watch:
        watch = self.wait_for(row)
        await self.until(lambda: isinstance(watch.phase, Armed))
        return watch


@asynccontextmanager
async def running(scene: Scene) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(scene.read())
        listening = tasks.create_task(scene.subscription.run())
        yield
        scene.subscription.stop()
        await listening
        reading.cancel()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    async with running(scene):
        yield scene


async def ended(watch: Watch) -> None:
    await asyncio.wait_for(asyncio.shield(watch.result), 10)


async def test_a_change_ends_an_armed_wait(scene: Scene) -> None:
    watch = await scene.armed(1)
    scene.change(1)
    await ended(watch)


async def test_a_late_notification_ends_it_when_it_arrives(scene: Scene) -> None:
    watch = await scene.armed(1)
    with scene.notifier.late():
        scene.change(1)
        await scene.armed(2)
        assert not watch.is_over
    await ended(watch)


async def test_a_lost_notification_is_found_by_the_next_check(scene: Scene) -> None:
    watch = await scene.armed(1)
    with scene.notifier.losing():
        scene.change(1)
    await ended(watch)


async def test_forged_and_doubled_notifications_end_nothing(scene: Scene) -> None:
    watch = await scene.armed(1)
    for _ in range(3):
        scene.notifier.forge(Notification(TABLE, (1,)))
        scene.notifier.forge(Notification(TABLE, None))
        scene.notifier.forge(Notification(None, None))
    other = await scene.armed(2)
    assert not watch.is_over
    scene.change(1)
    scene.change(2)
    await ended(watch)
    await ended(other)


async def test_after_a_lost_session_a_change_meanwhile_is_found(scene: Scene) -> None:
    watch = await scene.armed(1)
    scene.notifier.is_reachable = False
    scene.notifier.disconnect()
    await scene.until(lambda: isinstance(watch.phase, Polled))
    assert scene.state.state is WatcherState.POLLING
    assert scene.state.reason is Reason.CONNECTION_LOST
    scene.change(1)
    scene.notifier.is_reachable = True
    await ended(watch)
    await scene.armed(2)
    assert scene.state.reconnects == 1


async def test_an_obstacle_is_polled_and_said_and_armed_again_when_it_is_gone(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    watch = await scene.armed(1)
    scene.notifier.obstacles = {TABLE: Reason.TRIGGER_DISABLED}
    await scene.until(lambda: isinstance(watch.phase, Polled))
    assert "trigger_disabled" in caplog.text
    scene.notifier.obstacles = {}
    await scene.until(lambda: isinstance(watch.phase, Armed))
    scene.change(1)
    await ended(watch)


async def test_a_table_that_was_redefined_is_proven_anew(scene: Scene) -> None:
    watch = await scene.armed(1)
    scene.notifier.redefine(TABLE)
    before = watch.phase
    await scene.until(lambda: isinstance(watch.phase, Armed) and watch.phase is not before)
    scene.change(1)
    await ended(watch)


async def test_what_no_wait_needs_is_unregistered_after_a_while(scene: Scene) -> None:
    watch = await scene.armed(1)
    scene.board.discard(watch)
    async with asyncio.timeout(10):
        while scene.board.arming.registrations.all():
            await asyncio.sleep(0.01)  # nothing announces that a row was unregistered
    scene.notifier.change(RowId(TABLE, 1))
    assert scene.notifier.status.notifications == 0


async def test_stopping_during_a_backoff_ends_at_once() -> None:
    scene = Scene()
    scene.notifier.is_reachable = False
    task = asyncio.create_task(scene.subscription.run())
    await scene.until(lambda: scene.state.state is WatcherState.POLLING)
    scene.subscription.stop()
    await asyncio.wait_for(task, 5)
