"""Criteria that an event listener adds to statements do not hide rows from a wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, selectinload, with_loader_criteria

from rowbell import RowWatcher, wait_for_row_change
from support.observed import execute
from support.tasks import Task
from support.waits import armed_wait


class Filtered(Session):
    """A session that hides deleted rows, like SQLAlchemy's recipe for soft deletes."""


@event.listens_for(Filtered, "do_orm_execute")
def hide_deleted(state: Any) -> None:
    if state.is_select and not state.is_column_load and not state.is_relationship_load:
        criteria = with_loader_criteria(Task, Task.deleted.is_(False), include_aliases=True)
        state.statement = state.statement.options(criteria)


@pytest.mark.parametrize("loaded", [True, False])
async def test_a_row_that_is_softly_deleted_is_returned(tasks: AsyncEngine, loaded: bool) -> None:
    """The row exists, so the wait returns it, with a session and with a watcher."""
    async with (
        RowWatcher(tasks, mode="listen") as watcher,
        AsyncSession(tasks, sync_session_class=Filtered, expire_on_commit=False) as session,
    ):
        if loaded:
            await session.get_one(Task, 1)
            await session.commit()
        waits = [
            asyncio.create_task(
                wait_for_row_change(
                    session, Task, 1, timeout=20, options=[selectinload(Task.steps)]
                )
            ),
            asyncio.create_task(watcher.wait_for_change(Task, 1, timeout=20)),
        ]
        await watcher.reached(lambda now: now.armed == 2)
        await execute(tasks, update(Task).values(deleted=True))
        assert [task.deleted for task in await asyncio.gather(*waits)] == [True, True]
        assert await session.scalar(select(Task)) is None


async def test_criteria_for_all_sessions_hide_nothing_from_a_wait(tasks: AsyncEngine) -> None:
    event.listen(Session, "do_orm_execute", hide_deleted)
    try:
        async with RowWatcher(tasks, mode="listen") as watcher:
            until = lambda task: task.deleted  # noqa: E731
            wait = await armed_wait(watcher, Task, 1, until=until)
            await execute(tasks, update(Task).values(deleted=True))
            assert (await wait).deleted
    finally:
        event.remove(Session, "do_orm_execute", hide_deleted)
