"""What could make a list stay stale, or its stream hang, spin or leave something behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import ForeignKey, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import ListenError, ResyncReason, RowWatcher
from support.lists import BRIEF, created, listed, next_one, none_comes, relied_on, rest, watching
from support.observed import execute
from support.waits import QUICK


@pytest.mark.parametrize("closes", ["stream", "watcher"])
async def test_closing_ends_an_iteration_that_waits_for_its_interval(
    engine: AsyncEngine, entries: type[Any], closes: str
) -> None:
    watcher = watching(engine, "poll")
    watcher.start()
    changes = watcher.changes(entries, interval=3600)
    await next_one(changes)
    waiting = asyncio.ensure_future(rest(changes))
    await asyncio.sleep(0.01)  # it waits for its interval then
    await (changes if closes == "stream" else watcher).aclose()
    assert await waiting == []
    assert len(watcher._board.watches) == 0
    await watcher.aclose()


async def test_a_stream_goes_on_after_an_error(engine: AsyncEngine, entries: type[Any]) -> None:
    async with watching(engine) as watcher:
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        async with engine.begin() as connection:
            await connection.run_sync(rowbell.remove_triggers, entries)
        with pytest.raises(ListenError):
            await anext(changes)
        async with engine.begin() as connection:
            await connection.run_sync(rowbell.install_triggers, entries)
        async with asyncio.timeout(20):
            while True:
                try:
                    await relied_on(changes)
                    break
                except ListenError:
                    continue
        await execute(engine, "DELETE FROM entries")
        assert await next_one(changes) is ResyncReason.CHANGED


async def test_what_has_ended_an_unproven_watch_is_the_reason_of_the_next_answer(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    slow = replace(QUICK, narrow=3600)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=slow) as watcher:
        changes = watcher.changes(entries, interval=0.3)
        async with engine.connect() as writer:
            await writer.execute(text("INSERT INTO entries VALUES (3, 0)"))
            assert await next_one(changes) is ResyncReason.START
            await writer.rollback()
        await watcher.reached(lambda now: now.armed == 1)
        await execute(engine, "DELETE FROM entries")
        assert await next_one(changes) is ResyncReason.CHANGED


async def test_of_two_models_of_a_table_one_may_declare_inserts(engine: AsyncEngine) -> None:
    """The triggers of the other one do not serve a stream, which says so by polling."""
    declared, without = listed(), listed(inserts=False)
    await created(engine, without)
    async with watching(engine, "auto") as watcher:
        waits = [
            asyncio.create_task(watcher.wait_for_change(without, key, interval=BRIEF))
            for key in (1, 2)
        ]
        changes = watcher.changes(declared, interval=BRIEF)
        await watcher.reached(lambda now: now.polled + now.armed == 2)
        for _ in range(3):
            await anext(changes)
        await execute(engine, "INSERT INTO entries VALUES (3, 0)")
        assert await next_one(changes) is not None
        for wait in waits:
            wait.cancel()


async def test_subclasses_that_are_mapped_later_belong_to_later_streams(
    engine: AsyncEngine,
) -> None:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched(inserts=True)
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with watching(engine) as watcher:
        before = await relied_on(watcher.changes(Person, interval=BRIEF))

        @rowbell.watched(inserts=True)
        class Manager(Person):
            __tablename__ = "managers"
            id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
            __mapper_args__ = {"polymorphic_identity": "manager"}

        assert Manager.__table__ is not None
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text("INSERT INTO people VALUES (1, 'manager')"))
        later = await relied_on(watcher.changes(Person, interval=BRIEF))
        await execute(engine, "INSERT INTO managers VALUES (1)")
        assert await next_one(later) is ResyncReason.CHANGED
        assert before.ended is None


async def test_tables_that_do_not_exist_yet_are_polled_until_they_do(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched(inserts=True)
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    @rowbell.watched(inserts=True)
    class Manager(Person):
        __tablename__ = "managers"
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "manager"}

    async with watching(engine, "auto") as watcher:
        changes = watcher.changes(Person, interval=BRIEF)
        for _ in range(3):
            await anext(changes)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await relied_on(changes)
        await execute(engine, "INSERT INTO people VALUES (1, 'person')")
        assert await next_one(changes) is ResyncReason.CHANGED
        assert Manager.__table__ is not None


async def test_undeclared_columns_are_not_told(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched(columns=["n"], inserts=True)
    class Entry(Base):
        __tablename__ = "entries"
        __table_args__ = ()
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]
        seen: Mapped[int] = mapped_column(server_default="0")

    await created(engine, Entry)
    async with watching(engine) as watcher:
        changes = await relied_on(watcher.changes(Entry, interval=BRIEF))
        await execute(engine, "UPDATE entries SET seen = 1")
        assert await none_comes(changes)
        await execute(engine, "UPDATE entries SET n = 1")
        assert await next_one(changes) is ResyncReason.CHANGED
