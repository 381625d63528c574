"""Waits for a row of a class with subclasses watch the columns of the row's own class."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import ForeignKey, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from rowbell import NotFoundError, RowWatcher, WatcherStateError, wait_for_row_change
from rowbell.testing import rolled_back_session
from support.observed import execute, statements
from support.waits import armed_wait


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


@rowbell.watched
class Manager(Person):
    """A subclass with its own table."""

    __tablename__ = "managers"
    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    budget: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "manager"}


class Guest(Person):
    """A subclass in the table of the base class."""

    badge: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "guest"}


@pytest.fixture
async def people(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all([Person(id=1), Manager(id=2), Guest(id=3, badge="a")])
        await session.commit()
    return engine


async def set_own(engine: AsyncEngine, key: int) -> None:
    """Change a column that only the row's class has."""
    async with engine.begin() as connection:
        if key == 2:
            await connection.execute(text("UPDATE managers SET budget = 7"))
        else:
            await connection.execute(text("UPDATE people SET badge = 'b' WHERE id = 3"))


def own(person: Any) -> bool:
    return person.budget == 7 if isinstance(person, Manager) else person.badge == "b"


@pytest.mark.parametrize("until", [None, own])
@pytest.mark.parametrize("key", [2, 3], ids=["joined", "single"])
@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_change_of_a_subclass_column_ends_a_wait_for_the_base(
    people: AsyncEngine, mode: str, key: int, until: Any
) -> None:
    async with RowWatcher(people, mode=mode, recheck=None) as watcher:
        wait = asyncio.create_task(
            watcher.wait_for_change(Person, key, until=until, interval=0.02, timeout=20)
        )
        if mode == "listen":
            await watcher.reached(lambda now: now.armed == 1)
        else:
            await watcher.reached(lambda now: now.rereads > 0)
        await set_own(people, key)
        assert own(await wait)


@pytest.mark.parametrize("key", [2, 3], ids=["joined", "single"])
async def test_a_change_of_a_subclass_column_ends_the_wait_of_a_session_for_the_base(
    people: AsyncEngine, key: int
) -> None:
    async with RowWatcher(people, mode="listen", recheck=None) as watcher:
        async with AsyncSession(people, expire_on_commit=False) as session:
            seen = await session.get_one(Person, key)
            await session.commit()
            wait = await armed_wait(watcher, session, Person, key, since=seen)
            await set_own(people, key)
            assert await wait is seen
            assert own(seen)


async def test_a_change_of_a_subclass_column_ends_the_wait_of_a_bound_session(
    people: AsyncEngine,
) -> None:
    async with rolled_back_session(people, expire_on_commit=False) as session:
        manager = await session.get_one(Manager, 2)
        wait = asyncio.create_task(
            wait_for_row_change(session, Person, 2, since=manager, interval=0.01, timeout=20)
        )
        async with AsyncSession(session.bind, join_transaction_mode="create_savepoint") as other:
            await other.execute(text("UPDATE managers SET budget = 7"))
            await other.commit()
        assert await wait is manager
        assert own(manager)


async def test_named_columns_are_those_that_are_watched(people: AsyncEngine) -> None:
    """A wait that names columns of the base class ignores other columns."""
    async with RowWatcher(people, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Person, 3, columns=[Person.name])
        await set_own(people, 3)
        await execute(people, "UPDATE people SET name = 'x' WHERE id = 3")
        assert (await wait).name == "x"
        assert watcher.statistics().notifications == 1


async def test_a_row_of_no_class_is_not_found(people: AsyncEngine) -> None:
    async with RowWatcher(people) as watcher:
        with pytest.raises(NotFoundError, match=r"Person\(id=4\) not found"):
            await watcher.wait_for_change(Person, 4, timeout=5)


async def test_a_plain_base_row_is_watched_as_it_is(people: AsyncEngine) -> None:
    async with RowWatcher(people, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Person, 1)
        await execute(people, "UPDATE people SET name = 'x' WHERE id = 1")
        assert type(await wait) is Person


async def test_closing_the_watcher_ends_a_wait_that_could_not_ask_for_its_class_yet() -> None:
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    async with RowWatcher(engine, mode="poll") as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Person, 1, interval=0.01))
        await asyncio.wait({wait}, timeout=0.1)  # it has tried; nothing announces that
    with pytest.raises(WatcherStateError, match="closed"):
        await wait
    await engine.dispose()


@pytest.mark.parametrize("key", [2, 3], ids=["joined", "single"])
async def test_a_follow_goes_on_when_the_row_gets_another_class(
    people: AsyncEngine, key: int
) -> None:
    async with RowWatcher(people, mode="listen", recheck=None) as watcher:
        follow = watcher.follow(Person, key)
        await anext(follow)
        second = asyncio.ensure_future(anext(follow))
        await watcher.reached(lambda now: now.armed == 1)
        async with people.begin() as connection:
            await connection.execute(text("DELETE FROM managers WHERE id = :key"), {"key": key})
            change = text("UPDATE people SET kind = 'person' WHERE id = :key")
            await connection.execute(change, {"key": key})
        assert type(await second) is Person
        assert follow.ended is None


@pytest.mark.parametrize("mode", ["listen", "poll"])
async def test_a_follow_of_the_base_goes_through_all_classes(
    people: AsyncEngine, mode: str
) -> None:
    """Each state is complete, and changes of a subclass's own columns are among them."""
    async with RowWatcher(people, mode=mode, recheck=None) as watcher:
        follow = watcher.follow(Person, 3, interval=0.02)
        assert getattr(await anext(follow), "badge", None) == "a"
        for change, kind, badge in (
            ("UPDATE people SET kind = 'person' WHERE id = 3", Person, None),
            ("UPDATE people SET kind = 'guest', badge = 'c' WHERE id = 3", Guest, "c"),
            ("UPDATE people SET badge = 'b' WHERE id = 3", Guest, "b"),
        ):
            state = asyncio.ensure_future(anext(follow))
            if mode == "listen":
                await watcher.reached(lambda now: now.armed == 1)
            else:
                await asyncio.sleep(0.05)  # a later read is as good
            await execute(people, change)
            person = await state
            assert type(person) is kind
            assert getattr(person, "badge", None) == badge
        await execute(people, "DELETE FROM people WHERE id = 3")
        with pytest.raises(StopAsyncIteration):
            await anext(follow)
        assert follow.ended == "deleted"


async def test_a_wait_for_a_row_of_any_class_that_does_not_exist(people: AsyncEngine) -> None:
    async with RowWatcher(people, recheck=None) as watcher:
        wait = asyncio.create_task(
            watcher.wait_for_change(
                Person, 9, missing="wait", interval=0.02, until=lambda p: p.budget == 3
            )
        )
        await watcher.reached(lambda now: now.polled == 1)
        await execute(people, "INSERT INTO people VALUES (9, 'manager', 'm', NULL)")
        await execute(people, "INSERT INTO managers VALUES (9, 0)")
        await execute(people, "UPDATE managers SET budget = 3 WHERE id = 9")
        assert getattr(await wait, "budget", None) == 3
        with pytest.raises(rowbell.WaitTimeoutError):
            await watcher.wait_for_change(Person, 10, missing="wait", timeout=0.05, interval=0.02)


async def test_following_many_rows_of_subclasses_asks_for_all_classes_at_once(
    people: AsyncEngine,
) -> None:
    async with RowWatcher(people, recheck=None) as watcher:
        follow = watcher.follow_many(Person, [2, 3, 9], interval=0.02)
        with statements(people) as sent:
            first = dict([await anext(follow) for _ in range(3)])
        assert isinstance(first[2], Manager)
        assert isinstance(first[3], Guest)
        assert first[9] is None
        assert len([one for one in sent if "AS class" in one or "people.kind \nFROM" in one]) <= 1
        await execute(people, "UPDATE people SET kind = 'person' WHERE id = 3")
        key, person = await anext(follow)
        assert (key, type(person)) == (3, Person)
        await execute(people, "INSERT INTO people VALUES (9, 'guest', 'g', 'x')")
        key, person = await anext(follow)
        assert (key, type(person)) == (9, Guest)
