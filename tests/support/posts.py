"""Many-to-many relationships of every kind: posts and their tags, people, groups, codes."""

from __future__ import annotations

from uuid import UUID, uuid4

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
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class PostBase(DeclarativeBase):
    pass


post_tags = Table(
    "post tags",
    PostBase.metadata,
    Column("post", ForeignKey("posts.id"), primary_key=True),
    Column("tag", ForeignKey("App.tags.id"), primary_key=True),
    Column("since", DateTime, server_default=func.now()),
    Column("rank", Integer, default=7),
    Column("kind", String),
    schema="App",
)


class Post(PostBase):
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


class Tag(PostBase):
    __tablename__ = "tags"
    __table_args__ = {"schema": "App"}
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    posts: Mapped[list[Post]] = relationship(secondary=post_tags, back_populates="tags")


people: Table = Table("people", PostBase.metadata, Column("id", Integer, primary_key=True))
friendships = Table(
    "friendships",
    PostBase.metadata,
    Column("one", ForeignKey("people.id"), primary_key=True),
    Column("another", ForeignKey("people.id"), primary_key=True),
)


class Person(PostBase):
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
    PostBase.metadata,
    Column("tenant", Integer, primary_key=True),
    Column("group", String, primary_key=True),
    Column("user", Integer, primary_key=True),
    ForeignKeyConstraint(["tenant", "group"], ["groups.tenant", "groups.code"]),
    ForeignKeyConstraint(["tenant", "user"], ["users.tenant", "users.id"]),
)


class Group(PostBase):
    """A composite key. The other side has the first column of it too."""

    __tablename__ = "groups"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(primary_key=True)
    users: Mapped[list[User]] = relationship(secondary=memberships)


class User(PostBase):
    __tablename__ = "users"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)


codes = Table(
    "codes",
    PostBase.metadata,
    Column("left", ForeignKey("lefts.uid"), primary_key=True),
    Column("right", ForeignKey("rights.uid"), primary_key=True),
)


class Left(PostBase):
    """Referenced by a unique column that is not its key and has another attribute name."""

    __tablename__ = "lefts"
    id: Mapped[int] = mapped_column(primary_key=True)
    public: Mapped[UUID] = mapped_column("uid", unique=True, default=uuid4)
    rights: Mapped[list[Right]] = relationship(secondary=codes)


class Right(PostBase):
    __tablename__ = "rights"
    id: Mapped[int] = mapped_column(primary_key=True)
    public: Mapped[UUID] = mapped_column("uid", unique=True, default=uuid4)


async def create_posts(engine: AsyncEngine) -> None:
    """Create all tables, with two posts and ten tags."""
    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "App"'))
        await connection.run_sync(PostBase.metadata.create_all)
        await connection.execute(insert(Post), [{"id": 1}, {"id": 2}])
        await connection.execute(insert(Tag), [{"id": key} for key in range(1, 11)])


async def get(session: AsyncSession, *tags: int) -> tuple[Post, list[Tag]]:
    """Post 1 and those tags."""
    return await session.get_one(Post, 1), [await session.get_one(Tag, key) for key in tags]


async def stored(session: AsyncSession, post: int = 1) -> list[int]:
    """The tags of a post in the database."""
    rows = await session.scalars(
        select(post_tags.c.tag).where(post_tags.c.post == post).order_by("tag")
    )
    return list(rows)
