"""Autogenerate finds nothing to do."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

import rowbell
from support.models import Base, Order
from support.observed import execute
from support.waits import run


@pytest.mark.fault("B30")
async def test_autogenerate_finds_nothing_to_do_and_leaves_others_triggers_alone(
    engine: AsyncEngine, database: URL
) -> None:
    await execute(
        database,
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER audit AFTER UPDATE ON orders EXECUTE FUNCTION audit()",
    )

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: (kind, name) != ("schema", "rowbell"),
            },
        )
        found: list[Any] = compare_metadata(context, Base.metadata)
        return [d for d in found if "rowbell" in repr(d)]

    async with engine.begin() as connection:
        assert await connection.run_sync(differences) == []
    await run(engine, rowbell.remove_triggers, Order)
    await run(engine, rowbell.install_triggers, Order)
    async with engine.connect() as connection:
        audits = text("SELECT count(*) FROM pg_trigger WHERE tgname = 'audit'")
        assert await connection.scalar(audits) == 1
