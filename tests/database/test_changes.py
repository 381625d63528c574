"""A table has changed: a list that was loaded from it must be loaded again."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import ForeignKey, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import (
    InvalidArgumentError,
    ListenError,
    Reason,
    ResyncReason,
    RowWatcher,
    WatcherStateError,
)
from support.lists import (
    BRIEF,
    FORMS,
    created,
    listed,
    next_one,
    none_comes,
    relied_on,
    rest,
    watching,
)
from support.observed import execute, kill_listener
from support.waits import QUICK, reconnected

STATEMENTS = [
    "INSERT INTO entries VALUES (3, 0)",
    "UPDATE entries SET n = 1 WHERE id = 2",
    "UPDATE entries SET id = 9 WHERE id = 2",
    "DELETE FROM entries WHERE id = 1",
    "TRUNCATE entries",
    "INSERT INTO entries SELECT i, 0 FROM generate_series(10, 3000) AS i",
]


@FORMS
@pytest.mark.parametrize("statement", STATEMENTS)
async def test_every_change_of_the_table_is_told(
    engine: AsyncEngine, form: str, statement: str
) -> None:
    model = await created(engine, listed(form))
    async with watching(engine) as watcher:
        changes = watcher.changes(model, interval=BRIEF)
        assert await next_one(changes) is ResyncReason.START
        assert await none_comes(await relied_on(changes))
        await execute(engine, statement)
        # TRUNCATE also gives the table another file, which a heartbeat notices, before or after.
        has_new_file = statement.startswith("TRUNCATE")
        may_come = {ResyncReason.CHANGED} | ({ResyncReason.GAP} if has_new_file else set())
        assert await next_one(changes) in may_come
        is_quiet = await none_comes(await relied_on(changes))
        if has_new_file and not is_quiet:
            is_quiet = await none_comes(await relied_on(changes))
        assert is_quiet


@FORMS
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_also_of_writers_with_an_old_snapshot(
    engine: AsyncEngine, form: str, level: str
) -> None:
    model = await created(engine, listed(form))
    async with engine.connect() as writer:
        await writer.execution_options(isolation_level=level)
        await writer.execute(text("SELECT 1"))
        async with watching(engine) as watcher:
            changes = await relied_on(watcher.changes(model, interval=BRIEF))
            await writer.execute(text("INSERT INTO entries VALUES (3, 0)"))
            await writer.commit()
            assert await next_one(changes) is ResyncReason.CHANGED


async def test_what_changes_no_row_is_not_told(engine: AsyncEngine, entries: type[Any]) -> None:
    async with watching(engine) as watcher:
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        async with engine.connect() as connection:
            await connection.execute(text("INSERT INTO entries VALUES (3, 0)"))
            await connection.rollback()
        await execute(
            engine,
            "UPDATE entries SET n = 1 WHERE id = 999",
            "INSERT INTO entries VALUES (1, 0) ON CONFLICT DO NOTHING",
            "UPDATE orders SET n = 1",
        )
        assert await none_comes(changes)


async def test_a_change_during_the_load_is_remembered_and_told_once(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine) as watcher:
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        for n in range(5):
            await execute(engine, f"UPDATE entries SET n = {n + 1}")
        assert await next_one(changes) is ResyncReason.CHANGED
        assert await none_comes(await relied_on(changes))


async def test_there_is_at_most_one_each_interval_however_much_changes(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine) as watcher:
        changes = watcher.changes(entries, interval=0.3)
        await next_one(changes)
        writing = asyncio.create_task(_write_until_cancelled(engine))
        loop, times = asyncio.get_running_loop(), list[float]()
        for _ in range(4):
            assert await next_one(changes) in {ResyncReason.CHANGED, ResyncReason.GAP}
            times.append(loop.time())
        writing.cancel()
    assert min(after - before for before, after in pairwise(times)) >= 0.29


async def test_writers_notify_once_each_interval_not_once_for_each_commit(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    """Each commit that notifies waits for all others that do."""
    commits = 0

    async def write() -> None:
        nonlocal commits
        while True:
            await execute(engine, "UPDATE entries SET n = n + 1 WHERE id = 1")
            commits += 1

    async with watching(engine) as watcher:
        changes = watcher.changes(entries, interval=1)
        await next_one(changes)
        writing = asyncio.create_task(write())
        before = watcher.statistics().notifications
        await next_one(changes)
        await next_one(changes)
        writing.cancel()
        assert commits > 50
        # The registration is deleted as soon as the first one has arrived.
        assert watcher.statistics().notifications - before < commits / 3


async def _write_until_cancelled(engine: AsyncEngine) -> None:
    while True:
        await execute(engine, "UPDATE entries SET n = n + 1 WHERE id = 1")


async def test_nothing_is_told_before_a_change_can_be_missed_no_more(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    """A change that was made before the registration, and is committed after it."""
    slow = replace(QUICK, narrow=3600)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=slow) as watcher:
        changes = watcher.changes(entries, interval=0.5)
        async with engine.connect() as writer:
            await writer.execute(text("INSERT INTO entries VALUES (3, 0)"))
            assert await next_one(changes) is ResyncReason.START  # it is not proven
            assert await count(engine) == 2
            second = asyncio.ensure_future(next_one(changes))
            await asyncio.sleep(0.1)  # so that it is registered while the writer runs
            await writer.commit()
        assert await second in {ResyncReason.GAP, ResyncReason.POLLED}
        assert await count(engine) == 3


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM entries")) or 0)


async def test_a_list_that_is_loaded_each_time_is_right_in_the_end(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    """Transactions are short or long, and the table is registered again and again."""
    loaded = 0

    async def keep_loaded(changes: Any) -> None:
        nonlocal loaded
        async for _ in changes:
            loaded = await count(engine)

    async def write(number: int) -> None:
        for i in range(25):
            async with engine.begin() as connection:
                key = 100 + 100 * number + i
                await connection.execute(text("INSERT INTO entries VALUES (:key, 0)"), {"key": key})
                await asyncio.sleep(0.002 * (i % 7) * number)  # a longer transaction

    async with watching(engine) as watcher:
        for _ in range(3):
            changes = watcher.changes(entries, interval=0.01)
            keeping = asyncio.create_task(keep_loaded(changes))
            async with asyncio.TaskGroup() as writers:
                for number in range(4):
                    writers.create_task(write(number))
            async with asyncio.timeout(10):
                while loaded != await count(engine):
                    await asyncio.sleep(0.01)  # what is tested is that it comes at all
            await changes.aclose()
            await keeping
            await execute(engine, "DELETE FROM entries")


async def test_a_lost_connection_is_a_gap(engine: AsyncEngine, entries: type[Any]) -> None:
    async with watching(engine, "auto") as watcher:
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        await kill_listener(engine)
        assert await next_one(changes) in {ResyncReason.GAP, ResyncReason.POLLED}
        await watcher.reached(reconnected(0))
        assert await none_comes(await relied_on(changes))
        await execute(engine, "DELETE FROM entries")
        assert await next_one(changes) is ResyncReason.CHANGED


async def test_without_notifications_there_is_one_each_interval(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine, "poll") as watcher:
        changes = watcher.changes(entries, interval=BRIEF)
        reasons = [await next_one(changes) for _ in range(4)]
    assert reasons == [ResyncReason.START, *[ResyncReason.POLLED] * 3]


async def test_dropped_triggers_are_polled_and_installed_ones_notify_again(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine, "auto") as watcher:
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        async with engine.begin() as connection:
            await connection.run_sync(rowbell.remove_triggers, entries)
        assert await next_one(changes) is not ResyncReason.CHANGED
        async with engine.begin() as connection:
            await connection.run_sync(rowbell.install_triggers, entries)
        await relied_on(changes)
        await execute(engine, "DELETE FROM entries")
        assert await next_one(changes) is ResyncReason.CHANGED


async def test_a_model_that_does_not_declare_inserts_is_polled_and_says_why(
    engine: AsyncEngine,
) -> None:
    model = await created(engine, listed(inserts=False))
    async with watching(engine, "auto") as watcher:
        changes = watcher.changes(model, interval=BRIEF)
        assert await next_one(changes) is ResyncReason.START
        assert await next_one(changes) is ResyncReason.POLLED
    async with watching(engine) as watcher:
        with pytest.raises(ListenError, match="inserts_not_declared"):
            await anext(watcher.changes(model))


async def test_tables_of_subclasses_belong_to_a_class(engine: AsyncEngine) -> None:
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
        budget: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "manager"}

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO people VALUES (1, 'manager')"))
        await connection.execute(text("INSERT INTO managers VALUES (1, 0)"))
    async with watching(engine) as watcher:
        everybody = await relied_on(watcher.changes(Person, interval=BRIEF))
        await execute(engine, "UPDATE managers SET budget = 1")
        assert await next_one(everybody) is ResyncReason.CHANGED


async def test_several_streams_of_a_table_share_its_registration(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine) as watcher:
        streams = [watcher.changes(entries, interval=BRIEF) for _ in range(10)]
        await asyncio.gather(*map(relied_on, streams))
        for _ in range(3):
            await asyncio.gather(*map(relied_on, streams))
            waiting = [asyncio.ensure_future(next_one(stream)) for stream in streams]
            async with engine.connect() as connection:
                registered = text("SELECT count(*) FROM rowbell.registration")
                assert await connection.scalar(registered) == 1
            await execute(engine, "UPDATE entries SET n = n + 1")
            assert set(await asyncio.gather(*waiting)) == {ResyncReason.CHANGED}


async def test_closing_or_dropping_it_deletes_the_registration(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async def registered() -> int:
        async with engine.connect() as connection:
            found = await connection.scalar(text("SELECT count(*) FROM rowbell.registration"))
            return int(found or 0)

    async with watching(engine) as watcher:
        changes: Any = await relied_on(watcher.changes(entries, interval=BRIEF))
        assert await registered() == 1
        changes.itself = changes
        del changes
        gc.collect()
        async with asyncio.timeout(10):
            while await registered():
                await asyncio.sleep(0.01)  # the server does not announce it
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        waiting = asyncio.ensure_future(rest(changes))
        await asyncio.sleep(0)  # lets the task begin
        with pytest.raises(WatcherStateError, match="another task"):
            await anext(changes)
        await changes.aclose()
        assert await waiting == []
        other = await relied_on(watcher.changes(entries, interval=BRIEF))
        waiting = asyncio.ensure_future(rest(other))
    assert await waiting == []
    assert (changes.ended, other.ended) == ("closed", "closed")


async def test_arguments_are_checked_at_the_call(engine: AsyncEngine, entries: type[Any]) -> None:
    async with watching(engine) as watcher:
        with pytest.raises(InvalidArgumentError, match="interval"):
            watcher.changes(entries, interval=0)
        with pytest.raises(rowbell.UnmappedModelError):
            watcher.changes(int)


async def test_a_wait_for_a_row_of_the_table_goes_on_beside_it(
    engine: AsyncEngine, entries: type[Any]
) -> None:
    async with watching(engine) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(entries, 1, interval=3600))
        changes = await relied_on(watcher.changes(entries, interval=BRIEF))
        await watcher.reached(lambda now: now.armed == 2)
        await execute(engine, "UPDATE entries SET n = 1 WHERE id = 2")
        assert await next_one(changes) is ResyncReason.CHANGED
        assert not wait.done()
        await execute(engine, "UPDATE entries SET n = 1 WHERE id = 1")
        assert (await wait).n == 1
        assert watcher.statistics().reason is not Reason.TRIGGER_OUTDATED
