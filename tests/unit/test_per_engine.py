"""Each engine has one object for each event loop, also if loops run in several threads."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import create_async_engine

from rowbell._watch.per_engine import PerEngine


async def test_copies_of_an_engine_have_one_object() -> None:
    engine, registry = create_async_engine("sqlite+aiosqlite://"), PerEngine[object]()
    one = object()
    registry.add(engine, one)
    assert registry.get(engine.execution_options(isolation_level="AUTOCOMMIT")) is one
    assert registry.get(create_async_engine("sqlite+aiosqlite://")) is None


async def test_only_the_object_itself_is_removed() -> None:
    engine, registry = create_async_engine("sqlite+aiosqlite://"), PerEngine[object]()
    one, loop = object(), asyncio.get_running_loop()
    registry.add(engine, one)
    registry.remove(loop, engine, object())
    assert registry.get(engine) is one
    registry.remove(loop, engine, one)
    assert registry.get(engine) is None


def test_each_event_loop_has_an_object_of_its_own() -> None:
    engine, registry = create_async_engine("sqlite+aiosqlite://"), PerEngine[object]()

    async def used() -> asyncio.AbstractEventLoop:
        assert registry.get(engine) is None
        registry.add(engine, object())
        return asyncio.get_running_loop()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        loop = one.run(used())
        assert other.run(used()) is not loop
