"""Columns that a model declares as worth watching."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import JSON, TypeDecorator, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

import rowbell
from rowbell import (
    InvalidArgumentError,
    ListenError,
    Reason,
    RowWatcher,
    TriggerState,
    install_triggers,
    trigger_status,
    watched,
)
from support.calls import calls
from support.observed import execute
from support.waits import HOUR, QUICK, armed_wait, polled_because

ROWS = 100


class Base(DeclarativeBase):
    pass


@watched(columns=["status", "data"])
class Job(Base):
    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column("Status", default="new")
    data: Mapped[dict[str, int] | None] = mapped_column(JSON)
    heartbeat: Mapped[int] = mapped_column(default=0)


@pytest.fixture
async def jobs(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Job), [{"id": i} for i in range(1, ROWS + 1)])
    return engine


async def test_a_change_of_columns_that_are_not_declared_calls_nothing_though_the_row_is_watched(
    jobs: AsyncEngine, writer: AsyncConnection
) -> None:
    async with RowWatcher(jobs, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Job, 1)
        heard = watcher.statistics().notifications
        assert await calls(writer, "UPDATE jobs SET heartbeat = 1, \"Status\" = 'new'") == {}
        assert watcher.statistics().notifications == heard
        called = await calls(writer, "UPDATE jobs SET data = '{\"a\": 1}' WHERE id = 1")
        assert called == {"changed": 1, "notify": 1, "channel": 1}
        assert (await wait).heartbeat == 1
        assert watcher.statistics().notifications == heard + 1


@pytest.mark.parametrize(
    "statement", ["DELETE FROM jobs", "UPDATE jobs SET id = -id", "TRUNCATE jobs"]
)
async def test_a_row_that_is_deleted_or_moved_notifies_whatever_is_declared(
    jobs: AsyncEngine, statement: str
) -> None:
    async with RowWatcher(jobs, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Job, 1)
        await execute(jobs, statement)
        with pytest.raises(rowbell.NotFoundError, match="was deleted"):
            await wait


@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_by_default_a_wait_watches_what_is_declared_armed_and_polled_alike(
    jobs: AsyncEngine, mode: str
) -> None:
    async with RowWatcher(jobs, mode=mode, recheck=None) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Job, 1, interval=0.02, timeout=0.5))
        await watcher.reached(lambda now: now.queries > 0)
        await execute(jobs, update(Job).values(heartbeat=1))
        with pytest.raises(rowbell.WaitTimeoutError):
            await wait


async def test_a_wait_for_other_columns_is_polled_and_says_so(
    jobs: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with RowWatcher(jobs) as watcher:
        armed = asyncio.create_task(watcher.wait_for_change(Job, 1, interval=HOUR))
        polled = asyncio.create_task(
            watcher.wait_for_change(Job, 1, columns=["heartbeat"], interval=0.02, timeout=20)
        )
        await watcher.reached(lambda now: (now.armed, now.polled) == (1, 1))
        assert watcher.statistics().reason is Reason.NOT_DECLARED
        await execute(jobs, update(Job).values(heartbeat=1))
        assert (await polled).heartbeat == 1
        assert not armed.done()
        armed.cancel()
        await asyncio.wait([armed])
    assert "@watched(columns=" in caplog.text


async def test_a_condition_watches_what_it_looks_at_whatever_is_declared(
    jobs: AsyncEngine,
) -> None:
    async with RowWatcher(jobs) as watcher:
        armed = asyncio.create_task(
            watcher.wait_for_change(Job, 1, until=Job.status == "done", interval=HOUR)
        )
        polled = [
            asyncio.create_task(
                watcher.wait_for_change(Job, 1, until=until, interval=0.02, timeout=20)
            )
            for until in (Job.heartbeat > 5, lambda job: job.heartbeat > 5)
        ]
        await watcher.reached(lambda now: (now.armed, now.polled) == (1, 2))
        await execute(jobs, update(Job).values(heartbeat=6))
        assert [(await wait).heartbeat for wait in polled] == [6, 6]
        await execute(jobs, update(Job).values(status="done"))
        assert (await armed).status == "done"


async def test_any_type_can_be_declared(engine: AsyncEngine) -> None:
    """Types without equality, or with equal values of different texts, are compared as text."""

    class Own(DeclarativeBase):
        pass

    @watched(columns=["place", "wrapped"])
    class Thing(Own):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        place: Mapped[str | None] = mapped_column(Point)
        wrapped: Mapped[Any] = mapped_column(Wrapped, nullable=True)

    async with engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
        await connection.execute(text("INSERT INTO things (id) VALUES (1)"))
    async with RowWatcher(engine, mode="listen", recheck=None) as watcher:
        for assignment in ("place = point(1, 2)", "wrapped = '{}'"):
            wait = await armed_wait(watcher, Thing, 1)
            await execute(engine, f"UPDATE things SET {assignment}")
            await wait


class Point(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "POINT"


class Wrapped(TypeDecorator[Any]):
    impl = JSON
    cache_ok = True


async def test_listen_mode_refuses_a_wait_for_other_columns(jobs: AsyncEngine) -> None:
    async with RowWatcher(jobs, mode="listen") as watcher:
        with pytest.raises(ListenError, match=r"not_declared.*@watched\(columns="):
            await watcher.wait_for_change(Job, 1, columns=["heartbeat"])


async def test_triggers_of_other_declared_columns_are_outdated_and_not_trusted(
    jobs: AsyncEngine,
) -> None:
    class Later(DeclarativeBase):
        pass

    @watched(columns=["heartbeat"])
    class Task(Later):
        __tablename__ = "jobs"
        id: Mapped[int] = mapped_column(primary_key=True)
        heartbeat: Mapped[int]

    async with jobs.connect() as connection:
        [status] = await connection.run_sync(trigger_status, Task)
        assert status.state is TriggerState.OUTDATED
    async with RowWatcher(jobs, timing=QUICK) as watcher:
        wait = await polled_because(watcher, Reason.TRIGGER_OUTDATED, Task, 1, interval=HOUR)
        async with jobs.begin() as connection:
            await connection.run_sync(install_triggers, Task)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(jobs, update(Task).values(heartbeat=1))
        assert (await wait).heartbeat == 1


@pytest.mark.parametrize("options", [{"columns": ["n"]}, {"replicated": True}])
def test_declared_columns_and_replicated_tables_need_the_row_form(options: Any) -> None:
    class Own(DeclarativeBase):
        pass

    class Counter(Own):
        __tablename__ = "counters"
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    with pytest.raises(InvalidArgumentError, match="for_each must be 'row', which"):
        watched(for_each="statement", **options)(Counter)
