"""Fixtures for the tests of waits."""

from __future__ import annotations

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

import rowbell
from support.observed import execute
from support.tables import DEFINITIONS
from support.tasks import Task, TaskBase


@pytest.fixture
async def tasks(engine: AsyncEngine) -> AsyncEngine:
    """Task 1 in the schema ``public``, and another task 1 in each of two tenants' schemas."""
    for tenant in (None, "one", "two"):
        options = {"schema_translate_map": {None: tenant}}
        async with engine.execution_options(**options).begin() as connection:
            if tenant:
                await connection.execute(CreateSchema(tenant, if_not_exists=True))
            await connection.run_sync(TaskBase.metadata.create_all)
            await connection.run_sync(rowbell.install_triggers, Task)
            await connection.execute(insert(Task).values(id=1, state=tenant or "public"))
    return engine


@pytest.fixture
async def typed(engine: AsyncEngine) -> AsyncEngine:
    """The engine of a database with the types of ``support.tables``."""
    for statement in filter(str.strip, DEFINITIONS.split(";")):
        await execute(engine, statement)
    return engine
