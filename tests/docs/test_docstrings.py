"""The examples of all docstrings run."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import URL, Column, ForeignKey, Table, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sybil import Document, Example
from sybil.document import PythonDocStringDocument
from sybil.parsers.rest import CodeBlockParser

import rowbell
from support.paths import ROOT
from support.snippets import run, work

SOURCES = sorted((ROOT / "src").rglob("*.py"))


IMPORTS = """
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

import rowbell.alembic
import rowbell.fastapi
import rowbell.telemetry
from rowbell import RowWatcher
from rowbell.embedded import EmbeddedServer, server_url
from rowbell.fastapi import EventStream, WatcherDep, event_stream, long_poll
from rowbell.relay import NatsNotifier, Relay, RelayState, SocketNotifier
from rowbell.testing import rolled_back_session
"""
"""The imports that the examples need."""


class Base(DeclarativeBase):
    pass


@rowbell.watched
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class OrderOut(BaseModel):
    id: int
    status: str


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)


class Transfer(Base):
    __tablename__ = "transfers"
    id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))


post_tags = Table(
    "post_tags",
    Base.metadata,
    Column("post_id", ForeignKey("posts.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[Tag]] = relationship(secondary=post_tags)


def examples() -> Iterator[Any]:
    """Each example and its location."""
    for path in SOURCES:
        found: list[tuple[int, str]] = []

        def keep(example: Example, found: list[tuple[int, str]] = found) -> None:
            found.append((example.line, textwrap.dedent(str(example.parsed))))

        parser = CodeBlockParser("python", keep)
        document: Document = PythonDocStringDocument.parse(str(path), parser)
        for example in document.examples():
            example.evaluate()
        for line, code in found:
            yield pytest.param(path, code, id=f"{path.relative_to(ROOT / 'src')}:{line}")


async def work_and_commit(session: AsyncSession) -> None:
    await session.commit()


@pytest.mark.parametrize(("path", "code"), list(examples()))
async def test_an_example_runs(
    database: URL,
    server: URL,
    path: Path,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE items, orders"))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO orders VALUES (7, 'new')"))
        await connection.execute(text("INSERT INTO accounts VALUES (3), (7)"))
    stop = asyncio.Event()
    worker = asyncio.create_task(work(database, stop))
    namespace: dict[str, Any] = dict(globals())
    new_session = async_sessionmaker(engine)
    namespace |= {"__name__": "docs", "engine": engine, "op": None}
    namespace |= {"SERVER_URL": server, "app": FastAPI(), "new_session": new_session}
    namespace["name"] = "orders"
    if "class Order" in code:
        namespace["Base"] = type("Own", (DeclarativeBase,), {})
    if "drop_database" in code:
        await rowbell.create_database("shop_test", server_url=server)
    try:
        async with (
            AsyncSession(engine, expire_on_commit=False) as session,
            rowbell.RowWatcher(engine) as watcher,
        ):
            namespace |= {"session": session, "post": (post := Post(id=1))}
            namespace |= {"python": (python := Tag(id=1)), "postgresql": (tag := Tag(id=2))}
            session.add_all([post, python, tag])
            await session.commit()
            namespace["watcher"] = watcher
            if "RowWatcher(engine" in code:
                await watcher.aclose()
            await run(IMPORTS, path, namespace)
            await run(code, path, namespace)
    finally:
        stop.set()
        await worker
        await engine.dispose()
        if "create_database" in code:
            await rowbell.drop_database("shop_test", server_url=server)


def test_every_public_function_with_an_example_is_among_them() -> None:
    """This shows that the examples are found."""
    assert len(list(examples())) > 20
