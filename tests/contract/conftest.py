"""The contract is tested armed, polled, through a relay, and with a hosted database's roles."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import URL, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import RowWatcher
from support.ground import TIMING, Ground
from support.models import Base, Order, Plain
from support.relays import relayed
from support.roles import managed


@pytest.fixture(params=["listen", "poll", "managed", "relay"])
def ground_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def engine(
    ground_kind: str, rowbell_engine: AsyncEngine, database: URL
) -> AsyncGenerator[AsyncEngine]:
    if ground_kind != "managed":
        yield rowbell_engine
        return
    models = [mapper.class_ for mapper in Base.registry.mappers if mapper.class_ is not Plain]
    async with managed(database, *models) as (login, role):
        engine = create_async_engine(login, connect_args={"server_settings": {"role": role}})
        yield engine
        await engine.dispose()


@pytest.fixture
async def watcher(
    ground_kind: str, engine: AsyncEngine, tmp_path: Path
) -> AsyncGenerator[RowWatcher]:
    """The watcher. Armed waits get no help from ``recheck``."""
    if ground_kind == "relay":
        async with relayed(engine, tmp_path, mode="listen", recheck=None, timing=TIMING) as (
            _,
            watcher,
        ):
            yield watcher
        return
    mode = "poll" if ground_kind == "poll" else "listen"
    async with RowWatcher(engine, mode=mode, recheck=None, timing=TIMING) as watcher:
        yield watcher


@pytest.fixture
async def ground(engine: AsyncEngine, watcher: RowWatcher) -> Ground:
    """A database with two orders."""
    ground = Ground(engine, watcher)
    await ground.execute(
        insert(Order).values([{"id": 1, "status": "new"}, {"id": 2, "status": "new"}])
    )
    return ground
