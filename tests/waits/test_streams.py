"""``close_streams()``: what iterates ends at once, because the process is to end."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher, WatcherStateError
from support.lists import created, listed, watching
from support.models import Order
from support.observed import execute
from support.orders import CHANGE


async def _rest(stream: Any) -> str | None:
    async for _ in stream:
        pass
    ended: str | None = stream.ended
    return ended


async def test_all_kinds_of_streams_end_whatever_they_are_doing(orders: AsyncEngine) -> None:
    entries = await created(orders, listed())
    async with watching(orders) as watcher:
        kinds: list[Any] = [
            watcher.follow(Order, 1),
            watcher.follow_many(Order, [1, 2]),
            watcher.changes(entries),
        ]
        not_begun = [watcher.follow(Order, 1), watcher.changes(entries)]
        for stream in kinds:
            await anext(stream)
        waiting = [asyncio.create_task(_rest(stream)) for stream in kinds]
        await watcher.reached(lambda now: now.armed >= 3)
        watcher.close_streams()
        assert watcher.streams_closing.is_set()
        assert [await task for task in waiting] == ["closed"] * 3
        assert [await _rest(stream) for stream in not_begun] == ["closed"] * 2
        assert len(watcher._board.watches) == 0


async def test_waits_go_on_also_those_for_rows_that_do_not_exist(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(Order, 1, missing=missing, since={"n": 0}))
            for missing in ("raise", "wait")
        ]
        await watcher.reached(lambda now: now.armed == 2)
        watcher.close_streams()
        await execute(orders, CHANGE)
        assert [(await wait).n for wait in waits] == [1, 1]


async def test_no_stream_begins_after_that(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        watcher.close_streams()
        watcher.close_streams()
        for begin in (
            lambda: watcher.follow(Order, 1),
            lambda: watcher.follow_many(Order, [1]),
            lambda: watcher.changes(Order),
        ):
            with pytest.raises(WatcherStateError, match="streams are closed"):
                begin()


async def test_closing_the_watcher_says_so_too(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        assert not watcher.streams_closing.is_set()
    assert watcher.streams_closing.is_set()
    await RowWatcher(orders).aclose()


async def test_a_stream_that_is_dropped_is_not_kept(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        await anext(watcher.follow(Order, 1))
        gc.collect()
        await watcher.reached(lambda _: len(watcher._board.watches) == 0)
        assert len(watcher._streams._open) == 0


async def test_a_follow_of_many_says_how_many(orders: AsyncEngine) -> None:
    async with watching(orders) as watcher:
        follow = watcher.follow_many(Order, [1, 1, 2])
        assert len(follow) == 2
        follow.add(3)
        follow.discard(1)
        assert len(follow) == 2
