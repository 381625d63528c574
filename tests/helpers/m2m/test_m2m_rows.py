"""``m2m_add``, ``m2m_remove`` and ``m2m_set`` change the association rows, and nothing else."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from rowbell import InvalidArgumentError, m2m_add, m2m_remove, m2m_set
from support.observed import statements
from support.posts import (
    Group,
    Left,
    Person,
    Post,
    Right,
    Tag,
    User,
    create_posts,
    friendships,
    get,
    memberships,
    post_tags,
    stored,
)


async def test_add_remove_and_set_change_the_rows_and_leave_the_commit_to_the_caller(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, (one, two, three) = await get(session, 1, 2, 3)
    await m2m_add(session, post, Post.tags, one, two, one)
    assert await stored(session) == [1, 2]
    await m2m_remove(session, post, Post.tags, one, three)
    assert await stored(session) == [2]
    await m2m_set(session, post, Post.tags, three, one, one)
    assert await stored(session) == [1, 3]
    async with AsyncSession(tables) as elsewhere:
        assert await stored(elsewhere) == []
    await session.commit()
    async with AsyncSession(tables) as elsewhere:
        assert await stored(elsewhere) == [1, 3]
    await m2m_set(session, post, Post.tags)
    assert await stored(session) == []


async def test_with_nothing_related_add_and_remove_send_nothing(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, _ = await get(session)
    with statements(tables) as sent:
        await m2m_add(session, post, Post.tags)
        await m2m_remove(session, post, Post.tags)
    assert not sent


async def test_both_sides_can_be_the_owner(session: AsyncSession) -> None:
    post, (tag,) = await get(session, 1)
    await m2m_add(session, tag, Tag.posts, post)
    assert await stored(session) == [1]


async def test_other_columns_get_their_defaults(session: AsyncSession) -> None:
    post, (tag,) = await get(session, 1)
    await m2m_add(session, post, Post.tags, tag)
    row = (await session.execute(select(post_tags))).one()
    assert row.rank == 7
    assert isinstance(row.since, datetime)
    assert row.kind is None


async def test_a_conflict_is_an_error_after_which_the_transaction_goes_on(
    session: AsyncSession,
) -> None:
    post, (one, two) = await get(session, 1, 2)
    await m2m_add(session, post, Post.tags, one)
    with pytest.raises(IntegrityError):
        await m2m_add(session, post, Post.tags, two, one)
    assert await stored(session) == [1]
    await m2m_add(session, post, Post.tags, two, one, ignore_conflicts=True)
    assert await stored(session) == [1, 2]


async def test_set_touches_only_rows_that_differ(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, (one, two, three) = await get(session, 1, 2, 3)
    await m2m_set(session, post, Post.tags, one, two)
    await session.commit()
    before = select(post_tags.c.tag, text("xmin::text")).order_by("tag")
    first = (await session.execute(before)).all()
    await m2m_set(session, post, Post.tags, three, two)
    await session.commit()
    second = (await session.execute(before)).all()
    assert [row.tag for row in second] == [2, 3]
    assert second[0] == first[1]
    with statements(tables) as sent:
        await m2m_set(session, post, Post.tags, two, three)
    assert not [statement for statement in sent if statement.startswith(("INSERT", "DELETE"))]


async def test_a_set_that_fails_in_the_middle_leaves_the_old_one(session: AsyncSession) -> None:
    post, (one, two) = await get(session, 1, 2)
    await m2m_set(session, post, Post.tags, one, two)
    with pytest.raises(IntegrityError):
        await m2m_set(session, post, Post.tags, two, Tag(id=999))
    assert await stored(session) == [1, 2]
    await session.commit()
    assert await stored(session) == [1, 2]


async def test_instances_made_from_a_key_alone_are_enough(session: AsyncSession) -> None:
    await m2m_set(session, Post(id=2), Post.tags, Tag(id=3), Tag(id=4))
    assert await stored(session, 2) == [3, 4]


async def test_a_relationship_to_the_same_class_works_in_both_directions(
    session: AsyncSession,
) -> None:
    people = [Person(id=key) for key in range(4)]
    session.add_all(people)
    await session.flush()
    zero, one, two, three = people
    await m2m_add(session, zero, Person.friends, one, two)
    await m2m_add(session, zero, Person.friend_of, three)
    await m2m_remove(session, zero, Person.friends, two, three)
    rows = set(map(tuple, await session.execute(select(friendships))))
    assert rows == {(0, 1), (3, 0)}
    await m2m_set(session, zero, Person.friends, zero)
    rows = set(map(tuple, await session.execute(select(friendships))))
    assert rows == {(0, 0), (3, 0)}


async def test_composite_keys_that_share_a_column_work_on_either_side(
    session: AsyncSession,
) -> None:
    group = Group(tenant=1, code="a b")
    users = [User(tenant=1, id=key) for key in range(5)]
    foreign = User(tenant=2, id=1)
    session.add_all([group, *users, foreign])
    await session.flush()
    await m2m_add(session, group, Group.users, *users[:3])
    await m2m_remove(session, group, Group.users, users[0], users[4])
    await m2m_set(session, group, Group.users, *users[2:])
    rows = set(map(tuple, await session.execute(select(memberships))))
    assert rows == {(1, "a b", 2), (1, "a b", 3), (1, "a b", 4)}
    with pytest.raises(InvalidArgumentError, match="tenant"):
        await m2m_add(session, group, Group.users, foreign)
    await m2m_remove(session, group, Group.users, foreign)
    assert len((await session.execute(select(memberships))).all()) == 3


async def test_columns_that_are_not_the_key_are_loaded_where_they_are_expired(
    session: AsyncSession,
) -> None:
    left, rights = Left(id=1), [Right(id=1), Right(id=2)]
    session.add_all([left, *rights])
    await session.commit()
    await m2m_set(session, left, Left.rights, *rights)
    await session.refresh(left, ["rights"])
    assert {right.id for right in left.rights} == {1, 2}


async def test_the_schema_translate_map_is_followed(tables: AsyncEngine) -> None:
    async with tables.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.execute(text('CREATE TABLE tenant."post tags" (LIKE "App"."post tags")'))
    translated = tables.execution_options(schema_translate_map={"App": "tenant"})
    async with AsyncSession(translated) as session:
        await m2m_set(session, Post(id=1), Post.tags, Tag(id=1))
        assert await session.scalar(text('SELECT count(*) FROM tenant."post tags"')) == 1


async def test_a_hundred_thousand_are_within_the_drivers_limit(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    """Also with composite keys, which need more parameters for each row."""
    async with tables.begin() as connection:
        await connection.execute(
            text("INSERT INTO people SELECT i FROM generate_series(1, 100000) AS i")
        )
        await connection.execute(
            text("INSERT INTO users SELECT 1, i FROM generate_series(1, 20000) AS i")
        )
        await connection.execute(text("INSERT INTO groups VALUES (1, 'all')"))
    everybody = [Person(id=key) for key in range(1, 100_001)]
    count = select(func.count()).select_from(friendships)
    with statements(tables) as sent:
        await m2m_set(session, everybody[0], Person.friends, *everybody)
        assert await session.scalar(count) == 100_000
        await m2m_set(session, everybody[0], Person.friends, *everybody[50_000:])
        assert await session.scalar(count) == 50_000
        await m2m_remove(session, everybody[0], Person.friends, *everybody)
        assert await session.scalar(count) == 0
    assert len(sent) < 30
    users, group = [User(tenant=1, id=key) for key in range(1, 20_001)], Group(tenant=1, code="all")
    await m2m_add(session, group, Group.users, *users)
    await m2m_remove(session, group, Group.users, *users)
    assert (await session.execute(select(memberships))).first() is None


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "set"]),
        st.lists(st.integers(1, 10), max_size=6),
    ),
    max_size=12,
)


def test_any_sequence_of_commands_does_what_a_python_set_does(database: Any) -> None:
    with asyncio.Runner() as runner:
        engine = create_async_engine(database)

        async def obey(commands: list[tuple[str, list[int]]]) -> None:
            model: set[int] = set()
            async with AsyncSession(engine) as session:
                bystander, _ = await session.get_one(Post, 2), None
                await m2m_set(session, bystander, Post.tags, Tag(id=5))
                for command, keys in commands:
                    post, tags = await get(session, *keys)
                    if command == "add":
                        await m2m_add(session, post, Post.tags, *tags, ignore_conflicts=True)
                        model |= set(keys)
                    elif command == "remove":
                        await m2m_remove(session, post, Post.tags, *tags)
                        model -= set(keys)
                    else:
                        await m2m_set(session, post, Post.tags, *tags)
                        model = set(keys)
                    assert await stored(session) == sorted(model)
                assert await stored(session, 2) == [5]
                await session.rollback()

        @given(COMMANDS)
        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def check(commands: list[tuple[str, list[int]]]) -> None:
            runner.run(obey(commands))

        runner.run(create_posts(engine))
        check()
        runner.run(engine.dispose())
