"""m2m_add, m2m_remove and m2m_set: the association rows, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Table,
    and_,
    func,
    insert,
    join,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    foreign,
    mapped_column,
    relationship,
    selectinload,
)

from rowbell import (
    InvalidArgumentError,
    NotFoundError,
    RelationshipError,
    SessionStateError,
    UnflushedInstanceError,
    m2m_add,
    m2m_remove,
    m2m_set,
)
from support.observed import blocked, statements


class Base(DeclarativeBase):
    pass


post_tags = Table(
    "post tags",
    Base.metadata,
    Column("post", ForeignKey("posts.id"), primary_key=True),
    Column("tag", ForeignKey("App.tags.id"), primary_key=True),
    Column("since", DateTime, server_default=func.now()),
    Column("rank", Integer, default=7),
    Column("kind", String),
    schema="App",
)


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[Tag]] = relationship(secondary=post_tags, back_populates="posts")
    special: Mapped[list[Tag]] = relationship(
        secondary=post_tags,
        primaryjoin=lambda: and_(Post.id == post_tags.c.post, post_tags.c.kind == "special"),
        viewonly=True,
    )
    indirect: Mapped[list[Tag]] = relationship(
        secondary=lambda: join(post_tags, people, people.c.id == post_tags.c.tag),
        primaryjoin=lambda: Post.id == post_tags.c.post,
        secondaryjoin=lambda: Tag.id == post_tags.c.tag,
        viewonly=True,
    )
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("posts.id"))
    replies: Mapped[list[Post]] = relationship()


class Tag(Base):
    __tablename__ = "tags"
    __table_args__ = {"schema": "App"}
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    posts: Mapped[list[Post]] = relationship(secondary=post_tags, back_populates="tags")


people: Table = Table("people", Base.metadata, Column("id", Integer, primary_key=True))

friendships = Table(
    "friendships",
    Base.metadata,
    Column("one", ForeignKey("people.id"), primary_key=True),
    Column("another", ForeignKey("people.id"), primary_key=True),
)


class Person(Base):
    __table__ = people
    id: Mapped[int]
    friends: Mapped[list[Person]] = relationship(
        secondary=friendships,
        primaryjoin=lambda: Person.id == friendships.c.one,
        secondaryjoin=lambda: Person.id == friendships.c.another,
        back_populates="friend_of",
    )
    friend_of: Mapped[list[Person]] = relationship(
        secondary=friendships,
        primaryjoin=lambda: Person.id == friendships.c.another,
        secondaryjoin=lambda: Person.id == friendships.c.one,
        back_populates="friends",
    )


memberships = Table(
    "memberships",
    Base.metadata,
    Column("tenant", Integer, primary_key=True),
    Column("group", String, primary_key=True),
    Column("user", Integer, primary_key=True),
    ForeignKeyConstraint(["tenant", "group"], ["groups.tenant", "groups.code"]),
    ForeignKeyConstraint(["tenant", "user"], ["users.tenant", "users.id"]),
)


class Group(Base):
    """A composite key, whose first column the other side shares."""

    __tablename__ = "groups"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(primary_key=True)
    users: Mapped[list[User]] = relationship(secondary=memberships)


class User(Base):
    __tablename__ = "users"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)


codes = Table(
    "codes",
    Base.metadata,
    Column("left", ForeignKey("lefts.uid"), primary_key=True),
    Column("right", ForeignKey("rights.uid"), primary_key=True),
)


class Left(Base):
    """Referred to by a unique column that is not its key, under another attribute's name."""

    __tablename__ = "lefts"
    id: Mapped[int] = mapped_column(primary_key=True)
    public: Mapped[UUID] = mapped_column("uid", unique=True, default=uuid4)
    rights: Mapped[list[Right]] = relationship(secondary=codes)


class Right(Base):
    __tablename__ = "rights"
    id: Mapped[int] = mapped_column(primary_key=True)
    public: Mapped[UUID] = mapped_column("uid", unique=True, default=uuid4)


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "App"'))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Post), [{"id": 1}, {"id": 2}])
        await connection.execute(insert(Tag), [{"id": key} for key in range(1, 11)])
    return engine


@pytest.fixture
async def session(tables: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(tables) as session:
        yield session


async def get(session: AsyncSession, *tags: int) -> tuple[Post, list[Tag]]:
    return await session.get_one(Post, 1), [await session.get_one(Tag, key) for key in tags]


async def stored(session: AsyncSession, post: int = 1) -> list[int]:
    rows = await session.scalars(
        select(post_tags.c.tag).where(post_tags.c.post == post).order_by("tag")
    )
    return list(rows)


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


async def test_of_sets_at_the_same_time_one_whole_set_remains(tables: AsyncEngine) -> None:
    async def put(*keys: int) -> None:
        async with AsyncSession(tables) as session:
            post, tags = await get(session, *keys)
            await m2m_set(session, post, Post.tags, *tags)
            await session.commit()

    sets = [(1, 2, 3), (4, 5), (5, 1, 6), ()]
    for _ in range(15):
        await asyncio.gather(*(put(*keys) for keys in sets))
        async with AsyncSession(tables) as session:
            assert tuple(await stored(session)) in {tuple(sorted(keys)) for keys in sets}


async def test_adds_in_different_orders_do_not_deadlock(tables: AsyncEngine) -> None:
    async def add(*keys: int) -> None:
        async with AsyncSession(tables) as session:
            post, tags = await get(session, *keys)
            await m2m_add(session, post, Post.tags, *tags, ignore_conflicts=True)
            await session.commit()

    for _ in range(10):
        await asyncio.gather(*(add(*range(1, 11)), add(*range(10, 0, -1))) * 3)
        async with AsyncSession(tables) as session:
            await m2m_set(session, await session.get_one(Post, 1), Post.tags)
            await session.commit()


async def test_a_loaded_collection_shows_the_change_on_its_next_access(
    session: AsyncSession,
) -> None:
    """On both sides, where both are loaded."""
    post = await session.get_one(Post, 1, options=[selectinload(Post.tags)])
    tag = await session.get_one(Tag, 1, options=[selectinload(Tag.posts)])
    assert (post.tags, tag.posts) == ([], [])
    await m2m_add(session, post, Post.tags, tag)
    assert "tags" not in post.__dict__
    await session.refresh(post, ["tags"])
    await session.refresh(tag, ["posts"])
    assert (post.tags, tag.posts) == ([tag], [post])
    other = await session.get_one(Tag, 2, options=[selectinload(Tag.posts)])
    await m2m_set(session, post, Post.tags)
    assert "posts" not in tag.__dict__
    assert other.posts == []
    await session.refresh(post, ["tags"])
    assert post.tags == []


async def test_a_collection_with_unflushed_changes_is_not_thrown_away(
    session: AsyncSession,
) -> None:
    post = await session.get_one(Post, 1, options=[selectinload(Post.tags)])
    _, (one, two) = await get(session, 1, 2)
    with session.no_autoflush:
        post.tags.append(one)
        with pytest.raises(SessionStateError, match=r"Post.tags has changes .* flush"):
            await m2m_add(session, post, Post.tags, two)
    await session.flush()
    await m2m_add(session, post, Post.tags, two)
    assert await stored(session) == [1, 2]


async def test_nor_is_one_that_the_other_side_has_changed(session: AsyncSession) -> None:
    """SQLAlchemy keeps it for when the collection is loaded."""
    post = await session.get_one(Post, 1)
    tag = await session.get_one(Tag, 1, options=[selectinload(Tag.posts)])
    with session.no_autoflush:
        tag.posts.append(post)
        with pytest.raises(SessionStateError, match="flush"):
            await m2m_add(session, post, Post.tags, tag)


async def test_a_set_that_meets_an_add_has_what_it_wanted(tables: AsyncEngine) -> None:
    async with AsyncSession(tables) as adding, AsyncSession(tables) as setting:
        await m2m_add(adding, Post(id=1), Post.tags, Tag(id=1))
        task = asyncio.create_task(m2m_set(setting, Post(id=1), Post.tags, Tag(id=1), Tag(id=2)))
        await blocked(tables)
        await adding.commit()
        await task
        assert await stored(setting) == [1, 2]


async def test_nothing_else_that_is_pending_is_flushed(session: AsyncSession) -> None:
    post, (tag,) = await get(session, 1)
    session.add(Tag(id=77))
    await m2m_set(session, post, Post.tags, tag)
    assert session.new


async def test_expired_instances_are_known_by_their_keys_without_a_query_each(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, tags = await get(session, *range(1, 11))
    await session.commit()
    with statements(tables) as sent:
        await m2m_set(session, post, Post.tags, *tags)
    assert len(await stored(session)) == 10
    assert len([one for one in sent if one.startswith("SELECT")]) == 2


async def test_an_instance_without_its_row_is_an_error(session: AsyncSession) -> None:
    post, (tag,) = await get(session, 1)
    pending = Tag(id=50)
    session.add(pending)
    with session.no_autoflush:
        for owner, related in ((post, Tag()), (Post(), tag), (post, pending)):
            with pytest.raises(UnflushedInstanceError, match="flush"):
                await m2m_add(session, owner, Post.tags, related)
            with pytest.raises(UnflushedInstanceError):
                await m2m_remove(session, owner, Post.tags, related)
            with pytest.raises(UnflushedInstanceError):
                await m2m_set(session, owner, Post.tags, related)
    await session.flush()
    await m2m_add(session, post, Post.tags, pending)
    assert await stored(session) == [50]


async def test_instances_made_from_a_key_alone_are_enough(session: AsyncSession) -> None:
    await m2m_set(session, Post(id=2), Post.tags, Tag(id=3), Tag(id=4))
    assert await stored(session, 2) == [3, 4]


async def test_an_owner_that_is_gone_is_an_error(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    with pytest.raises(NotFoundError, match=r"Post\(id=3\) not found"):
        await m2m_set(session, Post(id=3), Post.tags, Tag(id=3))


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


@pytest.mark.parametrize(
    ("rel_attr", "words"),
    [
        (Post.replies, "Many-to-Many"),
        (Post.id, "Many-to-Many"),
        ("tags", "Many-to-Many"),
        (Tag.posts, "relates a Tag, which Post is not"),
        (Post.special, "cannot be written to"),
        (Post.indirect, "cannot be written to"),
    ],
)
async def test_what_is_no_many_to_many_relationship_is_refused(
    tables: AsyncEngine, session: AsyncSession, rel_attr: Any, words: str
) -> None:
    """Also one that means only some of the association rows: setting it would delete the rest."""
    with statements(tables) as sent:
        for function in (m2m_add, m2m_remove, m2m_set):
            with pytest.raises(RelationshipError, match=words) as caught:
                await function(session, Post(id=1), rel_attr, Tag(id=1))
            assert isinstance(caught.value, TypeError)
        with pytest.raises(RelationshipError, match="relates a Tag, which Post is not"):
            await m2m_add(session, Post(id=1), Post.tags, Post(id=2))
    assert not sent


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
    """Composite keys too, which take more parameters a row."""
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

        async def prepare() -> None:
            async with engine.begin() as connection:
                await connection.execute(text('CREATE SCHEMA "App"'))
                await connection.run_sync(Base.metadata.create_all)
                await connection.execute(insert(Post), [{"id": 1}, {"id": 2}])
                await connection.execute(insert(Tag), [{"id": key} for key in range(1, 11)])

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

        runner.run(prepare())
        check()
        runner.run(engine.dispose())


async def test_a_failure_of_the_connection_is_the_drivers_own_error(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    post, (tag,) = await get(session, 1)
    pid = await session.scalar(text("SELECT pg_backend_pid()"))
    async with tables.connect() as killer:
        await killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(DBAPIError):
        await m2m_set(session, post, Post.tags, tag)
    await session.rollback()
    await m2m_set(session, Post(id=1), Post.tags, Tag(id=1))


# -- joins that say more, association objects


class Blog(DeclarativeBase):
    pass


kinds = Table(
    "entry_labels",
    Blog.metadata,
    Column("entry_id", ForeignKey("entries.id"), primary_key=True),
    Column("label_id", ForeignKey("labels.id"), primary_key=True),
    Column("kind", String, primary_key=True, server_default="main"),
)


class Label(Blog):
    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(primary_key=True)
    entries: Mapped[list[Entry]] = relationship(secondary=kinds, viewonly=True)
    links: Mapped[list[Link]] = relationship(viewonly=True)


class Link(Blog):
    """The association object of the same table."""

    __table__ = kinds


class Entry(Blog):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    labels: Mapped[list[Label]] = relationship(secondary=kinds, viewonly=True)
    links: Mapped[list[Link]] = relationship(cascade="all, delete-orphan")
    by_text: Mapped[list[Label]] = relationship(
        secondary=kinds,
        viewonly=True,
        primaryjoin=lambda: and_(Entry.id == kinds.c.entry_id, text("entry_labels.kind = 'main'")),
    )
    by_literal: Mapped[list[Label]] = relationship(
        secondary=kinds,
        viewonly=True,
        primaryjoin=lambda: and_(
            Entry.id == kinds.c.entry_id,
            literal_column("entry_labels.kind") == literal_column("'main'"),
        ),
    )
    by_function: Mapped[list[Label]] = relationship(
        secondary=kinds,
        viewonly=True,
        primaryjoin=lambda: and_(Entry.id == kinds.c.entry_id, func.length(kinds.c.kind) > 3),
    )
    or_none: Mapped[list[Label]] = relationship(
        secondary=kinds,
        viewonly=True,
        primaryjoin=lambda: or_(Entry.id == kinds.c.entry_id, Entry.id == 0),
    )
    greater: Mapped[list[Label]] = relationship(
        secondary=kinds,
        viewonly=True,
        primaryjoin=lambda: Entry.id == kinds.c.entry_id,
        secondaryjoin=lambda: and_(
            Label.id == kinds.c.label_id, foreign(kinds.c.label_id) >= Label.id
        ),
    )


@pytest.mark.parametrize("name", ["by_text", "by_literal", "by_function", "or_none", "greater"])
async def test_a_join_that_says_anything_else_is_refused(session: AsyncSession, name: str) -> None:
    """Whatever it leaves out would be deleted."""
    with pytest.raises(RelationshipError, match="cannot be written to"):
        await m2m_set(session, Entry(id=1), getattr(Entry, name), Label(id=1))


async def test_collections_of_association_objects_show_the_change_too(
    session: AsyncSession,
) -> None:
    """On both sides; and what is loaded anew can be flushed."""
    await (await session.connection()).run_sync(Blog.metadata.create_all)
    session.add_all([Entry(id=1), Label(id=1), Label(id=2), Label(id=3)])
    await session.flush()
    entry, *labels = [await session.get_one(Entry, 1)]
    labels = [await session.get_one(Label, i) for i in (1, 2, 3)]
    await m2m_add(session, entry, Entry.labels, *labels[:2])
    for instance, names in ((entry, ["labels", "links"]), (labels[2], ["entries", "links"])):
        await session.refresh(instance, names)
    await m2m_set(session, entry, Entry.labels, labels[0], labels[2])

    def seen(_: object) -> list[list[int]]:
        return [
            sorted(label.id for label in entry.labels),
            sorted(link.label_id for link in entry.links),  # type: ignore[attr-defined]
            [link.entry_id for link in labels[2].links],  # type: ignore[attr-defined]
            [owner.id for owner in labels[2].entries],
        ]

    assert await session.run_sync(seen) == [[1, 3], [1, 3], [1], [1]]
    await session.flush()
