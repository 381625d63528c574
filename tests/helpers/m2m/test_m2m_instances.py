"""Loaded collections and pending instances."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, String, Table, and_, func, literal_column, or_, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    foreign,
    mapped_column,
    relationship,
    selectinload,
)

from rowbell import (
    NotFoundError,
    RelationshipError,
    SessionStateError,
    UnflushedInstanceError,
    m2m_add,
    m2m_remove,
    m2m_set,
)
from support.observed import statements
from support.posts import Post, Tag, get, stored


async def test_a_loaded_collection_shows_the_change_on_its_next_access(
    session: AsyncSession,
) -> None:
    """If both sides are loaded, on both sides."""
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


async def test_a_collection_that_the_other_side_has_changed_is_not_thrown_away(
    session: AsyncSession,
) -> None:
    """SQLAlchemy keeps the pending change until the collection is loaded."""
    post = await session.get_one(Post, 1)
    tag = await session.get_one(Tag, 1, options=[selectinload(Tag.posts)])
    with session.no_autoflush:
        tag.posts.append(post)
        with pytest.raises(SessionStateError, match="flush"):
            await m2m_add(session, post, Post.tags, tag)


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


async def test_an_owner_that_is_gone_is_an_error(
    tables: AsyncEngine, session: AsyncSession
) -> None:
    with pytest.raises(NotFoundError, match=r"Post\(id=3\) not found"):
        await m2m_set(session, Post(id=3), Post.tags, Tag(id=3))


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
async def test_a_relationship_that_is_not_many_to_many_is_refused(
    tables: AsyncEngine, session: AsyncSession, rel_attr: Any, words: str
) -> None:
    """So is a relationship to only some of the association rows: a set would delete the rest."""
    with statements(tables) as sent:
        for function in (m2m_add, m2m_remove, m2m_set):
            with pytest.raises(RelationshipError, match=words) as caught:
                await function(session, Post(id=1), rel_attr, Tag(id=1))
            assert isinstance(caught.value, TypeError)
        with pytest.raises(RelationshipError, match="relates a Tag, which Post is not"):
            await m2m_add(session, Post(id=1), Post.tags, Post(id=2))
    assert not sent


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
    """The association object for the same table."""

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
    """A set would delete the rows that the join excludes."""
    with pytest.raises(RelationshipError, match="cannot be written to"):
        await m2m_set(session, Entry(id=1), getattr(Entry, name), Label(id=1))


async def test_collections_of_association_objects_show_the_change_too(
    session: AsyncSession,
) -> None:
    """On both sides. Instances that are loaded again can be flushed."""
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
