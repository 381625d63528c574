"""Tables whose inserts are declared: a row that does not exist yet wakes the wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import ForeignKey, case, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

import rowbell
from rowbell import (
    ListenError,
    Reason,
    RowWatcher,
    TriggerState,
    install_triggers,
    trigger_status,
)
from support.observed import execute, statements
from support.waits import HOUR, QUICK, armed_wait, notified, run, states

MERGE = (
    "MERGE INTO events AS e USING (VALUES (7)) AS v (id) ON e.id = v.id"
    " WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1)"
)
FORMS = pytest.mark.parametrize("form", ["statement", "row", "declared", "partitioned"])


def events(form: str = "statement", *, inserts: bool = True) -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __tablename__ = "events"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"} if form == "partitioned" else {}
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int] = mapped_column(default=0)

    options: dict[str, Any] = {"for_each": form} if form in {"statement", "row"} else {}
    if form == "declared":
        options = {"columns": ["n"]}
    return rowbell.watched(inserts=inserts, **options)(Event)


async def created(engine: AsyncEngine, model: type[Any]) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(model.metadata.create_all)
        if model.__table_args__:
            for name, low, high in (("low", 0, 100), ("high", 100, 2_000)):
                await connection.execute(
                    text(
                        f"CREATE TABLE {name} PARTITION OF events "
                        f"FOR VALUES FROM ({low}) TO ({high})"
                    )
                )


@asynccontextmanager
async def waiting(
    engine: AsyncEngine, model: type[Any], key: object = 7
) -> AsyncGenerator[asyncio.Task[Any]]:
    """An armed wait for a row that does not exist."""
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        yield await armed_wait(watcher, model, key, missing="wait")


@FORMS
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO events VALUES (7, 1)",
        "INSERT INTO events SELECT i, 1 FROM generate_series(6, 1500) AS i",
        "INSERT INTO events VALUES (1, 1), (7, 1) ON CONFLICT (id) DO UPDATE SET n = 2",
        "UPDATE events SET id = 7 WHERE id = 1",
        "UPDATE events SET id = CASE WHEN id = 1 THEN 7 ELSE id END",
        "WITH new AS (INSERT INTO events VALUES (7, 1) RETURNING id) SELECT * FROM new",
        MERGE,
    ],
    ids=["insert", "many", "upsert", "key", "key of many", "cte", "merge"],
)
async def test_a_row_that_appears_wakes_the_wait_however_it_appears(
    engine: AsyncEngine, form: str, statement: str
) -> None:
    event = events(form)
    await created(engine, event)
    await execute(engine, "INSERT INTO events VALUES (1, 0), (2, 0)")
    async with engine.connect() as connection:
        version = await connection.scalar(text("SHOW server_version_num"))
    if statement == MERGE and int(version or 0) < 150000:
        pytest.skip("this server has no MERGE")
    async with waiting(engine, event) as wait:
        await execute(engine, statement)
        assert (await wait).id == 7


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@FORMS
@pytest.mark.parametrize(
    "statement", ["INSERT INTO events VALUES (7, 1)", "UPDATE events SET id = 7"]
)
async def test_also_a_writer_with_an_old_snapshot(
    engine: AsyncEngine, form: str, statement: str, level: str
) -> None:
    event = events(form)
    await created(engine, event)
    await execute(engine, "INSERT INTO events VALUES (1, 0)")
    async with engine.connect() as writer:
        await writer.execution_options(isolation_level=level)
        await writer.execute(text("SELECT 1"))
        async with waiting(engine, event) as wait:
            await writer.execute(text(statement))
            await writer.commit()
            assert (await wait).id == 7


async def test_a_row_that_moves_into_a_partition_by_its_key_wakes_the_wait(
    engine: AsyncEngine,
) -> None:
    event = events("partitioned")
    await created(engine, event)
    await execute(engine, "INSERT INTO events VALUES (1, 0)")
    async with waiting(engine, event, 150) as wait:
        await execute(engine, "UPDATE events SET id = 150")
        assert (await wait).id == 150
    async with waiting(engine, event, 50) as wait:
        await execute(engine, "INSERT INTO low VALUES (50, 1)")
        assert (await wait).id == 50


async def test_an_attached_partition_is_found_by_the_heartbeat(engine: AsyncEngine) -> None:
    event = events("partitioned")
    await created(engine, event)
    await execute(engine, "CREATE TABLE more (LIKE events)", "INSERT INTO more VALUES (3000, 1)")
    async with waiting(engine, event, 3000) as wait:
        await execute(
            engine, "ALTER TABLE events ATTACH PARTITION more FOR VALUES FROM (2000) TO (4000)"
        )
        assert (await wait).id == 3000


@FORMS
async def test_what_does_not_make_the_row_appear_does_not_wake_the_wait(
    engine: AsyncEngine, form: str
) -> None:
    event = events(form)
    await created(engine, event)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, event, 7, missing="wait")
        before = watcher.statistics().notifications
        async with engine.connect() as connection:
            await connection.execute(text("INSERT INTO events VALUES (7, 1)"))
            await connection.rollback()
        await execute(
            engine,
            "INSERT INTO events SELECT i, 0 FROM generate_series(8, 1600) AS i",
            "UPDATE events SET n = 1",
            "UPDATE events SET id = 6 WHERE id = 8",
            "DELETE FROM events",
            "INSERT INTO events SELECT 1, 1 WHERE false",
        )
        assert watcher.statistics().notifications == before
        await execute(engine, "INSERT INTO events VALUES (7, 2)")
        assert (await wait).n == 2


async def test_a_follow_sees_the_row_come_go_and_come_again(engine: AsyncEngine) -> None:
    event = events()
    await created(engine, event)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        follow = watcher.follow(event, 7, missing="wait", interval=HOUR)
        for n in (1, 2):
            state = asyncio.ensure_future(anext(follow))
            await watcher.reached(lambda now: now.armed == 1)
            await execute(engine, f"INSERT INTO events VALUES (7, {n})")
            assert (await state).n == n
            state = asyncio.ensure_future(anext(follow))
            await watcher.reached(lambda now: now.armed == 1)
            before = watcher.statistics()
            await execute(engine, "DELETE FROM events")
            await watcher.reached(notified(before.notifications))
            await execute(engine, "INSERT INTO events VALUES (7, 9)")
            assert (await state).n == 9
            await execute(engine, "DELETE FROM events")


async def test_many_rows_of_which_none_exists_are_armed_by_few_statements(
    engine: AsyncEngine,
) -> None:
    event = events()
    await created(engine, event)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        follow = watcher.follow_many(event, range(1_000), interval=HOUR)
        with statements(engine) as sent:
            for _ in range(1_000):
                assert (await anext(follow))[1] is None
            first = asyncio.ensure_future(anext(follow))
            await watcher.reached(lambda now: now.armed == 1_000)
        assert len(sent) < 30
        await execute(engine, "INSERT INTO events SELECT i, i FROM generate_series(0, 999) AS i")
        rest = [(await anext(follow))[0] for _ in range(999)] if await first else []
        assert {(await first)[0], *rest} == set(range(1_000))


async def test_a_row_of_several_tables_appears_when_the_last_part_does(
    engine: AsyncEngine,
) -> None:
    """Joined inheritance."""

    class Base(DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Manager(Person):
        __tablename__ = "managers"
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "manager"}

    rowbell.watched(inserts=True)(Person)
    rowbell.watched(inserts=True)(Manager)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with waiting(engine, Manager, 7) as wait:
        await execute(engine, "INSERT INTO people VALUES (7, 'manager')")
        await asyncio.sleep(0.1)  # nothing may happen, so there is no event to wait for
        assert not wait.done()
        await execute(engine, "INSERT INTO managers VALUES (7)")
        assert isinstance(await wait, Manager)


async def test_a_row_of_a_single_table_class_appears_when_its_class_does(
    engine: AsyncEngine,
) -> None:
    class Base(DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        n: Mapped[int]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Guest(Person):
        __mapper_args__ = {"polymorphic_identity": "guest"}

    rowbell.watched(inserts=True)(Person)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        for change in (
            "INSERT INTO people VALUES (7, 'guest', 0)",
            "UPDATE people SET kind = 'guest' WHERE id = 8",
        ):
            key = 7 if change.startswith("INSERT") else 8
            if key == 8:
                await execute(engine, "INSERT INTO people VALUES (8, 'person', 0)")
            wait = await armed_wait(watcher, Guest, key, missing="wait", columns=["n"])
            await execute(engine, change)
            assert isinstance(await wait, Guest)


@pytest.mark.parametrize("discriminator", ["column", "expression"])
async def test_a_row_that_may_get_its_class_unseen_is_polled_or_wakes(
    engine: AsyncEngine, discriminator: str
) -> None:
    class Base(DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        code: Mapped[int] = mapped_column()
        n: Mapped[int]
        kind = column_property(case((code == 2, "guest"), else_="person"))
        __mapper_args__ = {
            "polymorphic_on": "code" if discriminator == "column" else "kind",
            "polymorphic_identity": 1 if discriminator == "column" else "person",
        }

    class Guest(Person):
        __mapper_args__ = {"polymorphic_identity": 2 if discriminator == "column" else "guest"}

    declared = ["n"] if discriminator == "column" else None
    rowbell.watched(inserts=True, columns=declared)(Person)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO people VALUES (8, 1, 0)"))
    async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
        wait = asyncio.create_task(
            watcher.wait_for_change(Guest, 8, missing="wait", columns=["n"], interval=0.05)
        )
        await watcher.reached(lambda now: now.armed == 1 or now.reason is Reason.NOT_DECLARED)
        await execute(engine, "UPDATE people SET code = 2")
        assert isinstance(await wait, Guest)


async def test_a_subclass_does_not_take_back_what_its_parent_declares(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    @rowbell.watched(inserts=True)
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    @rowbell.watched
    class Guest(Person):
        __mapper_args__ = {"polymorphic_identity": "guest"}

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with waiting(engine, Guest, 7) as wait:
        await execute(engine, "INSERT INTO people VALUES (7, 'guest')")
        assert (await wait).id == 7


async def test_without_the_declaration_the_wait_is_polled_and_says_why(
    engine: AsyncEngine,
) -> None:
    event = events(inserts=False)
    await created(engine, event)
    async with RowWatcher(engine, mode="listen", timing=QUICK) as watcher:
        with pytest.raises(ListenError, match=r"inserts_not_declared.*@watched\(inserts=True\)"):
            await watcher.wait_for_change(event, 7, missing="wait")


async def test_triggers_for_inserts_are_installed_and_removed_with_the_declaration(
    engine: AsyncEngine,
) -> None:
    without, declared = events(inserts=False), events()
    await created(engine, without)
    assert await states(engine, without, declared) == [TriggerState.INSTALLED, TriggerState.MISSING]
    executed = await run(engine, install_triggers, declared)
    assert any("rowbell_insert" in one for one in executed)
    assert await states(engine, without, declared) == [
        TriggerState.OUTDATED,
        TriggerState.INSTALLED,
    ]
    await execute(engine, "ALTER TABLE events DISABLE TRIGGER rowbell_insert")
    assert await states(engine, declared) == [TriggerState.DISABLED]
    await run(engine, install_triggers, without)
    assert await states(engine, without) == [TriggerState.INSTALLED]
    assert await run(engine, install_triggers, without) == []


async def test_an_application_without_the_declaration_is_served_by_triggers_for_inserts(
    engine: AsyncEngine,
) -> None:
    """So two versions of it can run side by side during a deployment."""
    without, declared = events(inserts=False), events()
    await created(engine, declared)
    await execute(engine, "INSERT INTO events VALUES (1, 0)")
    async with RowWatcher(engine, mode="listen", recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, without, 1)
        await execute(engine, "UPDATE events SET n = 1")
        assert (await wait).n == 1


async def test_a_wait_for_a_row_is_polled_while_the_trigger_for_inserts_is_missing(
    engine: AsyncEngine,
) -> None:
    event = events()
    await created(engine, event)
    async with RowWatcher(engine, recheck=None, timing=QUICK) as watcher:
        wait = await armed_wait(watcher, event, 7, missing="wait", interval=0.05)
        await execute(engine, "DROP TRIGGER rowbell_insert ON events")
        await watcher.reached(lambda now: now.reason is Reason.TRIGGER_MISSING)
        await execute(engine, "INSERT INTO events VALUES (7, 1)")
        assert (await wait).id == 7


async def test_an_insert_never_fails_because_of_the_trigger(engine: AsyncEngine) -> None:
    event = events()
    await created(engine, event)
    async with engine.connect() as connection:
        [status] = await connection.run_sync(trigger_status, event)
    assert status.state is TriggerState.INSTALLED
    async with waiting(engine, event) as wait:
        async with engine.connect() as connection:
            await connection.execute(text("ALTER TABLE rowbell.registration RENAME TO gone"))
            await connection.execute(text("INSERT INTO events VALUES (7, 1)"))
            await connection.execute(text("ALTER TABLE rowbell.gone RENAME TO registration"))
            await connection.commit()
        assert (await wait).id == 7
