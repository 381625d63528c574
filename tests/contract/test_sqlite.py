"""Waits on engines without LISTEN are polled, with the same semantics; here with aiosqlite."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, String, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column

import rowbell
from rowbell import (
    ListenError,
    NotFoundError,
    Reason,
    RowWatcher,
    UnsupportedEngineError,
    WaitTimeoutError,
    wait_for_row_change,
)
from support.observed import execute
from support.waits import polled_wait


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Job(Base):
    __tablename__ = "jobs"
    queue: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column("job_state", default="new")
    data: Mapped[Any] = mapped_column(JSON, nullable=True)
    log: Mapped[str | None] = deferred(mapped_column(String))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Job).values(queue="q", number=1, data={"a": 1}, log=""))
    yield engine
    await engine.dispose()


async def change(engine: AsyncEngine, **values: Any) -> None:
    await execute(engine, update(Job).values(**values))


@pytest.mark.parametrize(
    ("columns", "values"),
    [(None, {"state": "done"}), (["data"], {"data": {"a": 2}}), (["log"], {"log": "line"})],
)
async def test_a_change_ends_the_wait(
    engine: AsyncEngine, columns: list[str] | None, values: dict[str, Any]
) -> None:
    async with RowWatcher(engine, mode="poll") as watcher, AsyncSession(engine) as session:
        wait = await polled_wait(watcher, session, Job, ("q", 1), columns=columns, interval=0.01)
        await change(engine, **values)
        assert await wait in session


async def test_since_until_and_timeouts_work_as_on_postgresql(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        key = {"queue": "q", "number": 1}
        await wait_for_row_change(session, Job, key, since={"data": {"a": 0}}, timeout=0)
        await wait_for_row_change(session, Job, key, until=Job.state == "new", timeout=0)
        await wait_for_row_change(session, Job, key, until=lambda job: job.number == 1, timeout=0)
        await session.rollback()
        with pytest.raises(WaitTimeoutError):
            await wait_for_row_change(session, Job, key, since={"data": {"a": 1}}, timeout=0.05)
        with pytest.raises(NotFoundError):
            await wait_for_row_change(session, Job, ("q", 2))


@pytest.mark.fault("B18")
async def test_it_is_said_once_that_there_is_no_listen(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        async with RowWatcher(engine) as watcher:
            assert watcher.statistics().reason is Reason.UNSUPPORTED
    [warning] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert 'mode="poll"' in warning
    with pytest.raises(ListenError, match="unsupported"):
        await RowWatcher(engine, mode="listen").__aenter__()


async def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    async with AsyncSession(engine) as session:
        with pytest.raises(UnsupportedEngineError, match="use a database file"):
            await wait_for_row_change(session, Job, ("q", 1))
    await engine.dispose()
