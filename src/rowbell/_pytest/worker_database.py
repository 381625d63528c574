"""The database of a test worker: a copy of a template, created again when a test needs a clean one.

The fixtures of ``rowbell_pytest`` use this module. It is synchronous, because fixtures of a whole
test run outlive the event loops of the tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from anyio.from_thread import start_blocking_portal
from sqlalchemy import URL, MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from rowbell.testing import create_database, drop_database

if TYPE_CHECKING:
    from pathlib import Path

Schema: TypeAlias = (
    type[DeclarativeBase] | MetaData | Callable[[URL], None] | Callable[[URL], Awaitable[None]]
)
"""A declarative base or metadata to create, or a function that migrates the database at a URL."""


@dataclass(frozen=True, slots=True)
class Run:
    """One test run.

    Attributes:
        directory: The directory that its processes share.
        uid: Distinguishes its databases from those of other runs on the same server.
        worker: The name of this process in the run.
    """

    directory: Path
    uid: str
    worker: str


class Condition(StrEnum):
    """What a worker's database may contain in addition to the template."""

    CLEAN = "clean"
    """Nothing."""
    ROLLED_BACK = "rolled back"
    """No rows, but sequences may have advanced."""
    LENT = "lent"
    """Whatever the test writes that uses it now."""
    DIRTY = "dirty"
    """Anything; or the database does not exist."""


class WorkerDatabase:
    """A copy of the template. It is created again if it must be clean and may not be.

    Args:
        server_url: A URL of the server.
        name: The copy's name.
        template: The template's name.
    """

    def __init__(self, server_url: URL, name: str, template: str) -> None:
        self._server_url = server_url
        self._url = server_url.set(database=name)
        self._name = name
        self._template = template
        self.condition = Condition.DIRTY

    @contextmanager
    def lent(self) -> Generator[URL]:
        """Yield the URL of the clean database, for a test that may change it."""
        if self.condition is not Condition.CLEAN:
            self._clone()
        self.condition = Condition.LENT
        yield self._url
        self.condition = Condition.DIRTY

    def to_roll_back(self) -> URL:
        """The URL, for work that is rolled back. It is the same URL in the test that is lent it."""
        if self.condition is Condition.DIRTY:
            self._clone()
        if self.condition is not Condition.LENT:
            self.condition = Condition.ROLLED_BACK
        return self._url

    def _clone(self) -> None:
        self.drop()
        _call(create_database, self._name, server_url=self._server_url, template=self._template)
        self.condition = Condition.CLEAN

    def drop(self) -> None:
        """Drop the database, if it exists."""
        _call(drop_database, self._name, server_url=self._server_url, missing_ok=True)


def create_template(server_url: URL, name: str, schema: Schema) -> None:
    """Create a database with that schema in it."""
    _call(create_database, name, server_url=server_url)
    try:
        _fill(server_url.set(database=name), schema)
    except BaseException:
        drop_template(server_url, name)
        raise


def drop_template(server_url: URL, name: str) -> None:
    """Drop the template."""
    _call(drop_database, name, server_url=server_url)


def _fill(url: URL, schema: Schema) -> None:
    metadata = schema if isinstance(schema, MetaData) else getattr(schema, "metadata", None)
    if isinstance(metadata, MetaData):
        _call(_create_all, url, metadata)
    elif not isinstance(schema, MetaData | type):
        pending = schema(url)
        if pending is not None:
            _call(_awaited, pending)


async def _create_all(url: URL, metadata: MetaData) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        for name in {table.schema for table in metadata.tables.values() if table.schema}:
            await connection.execute(CreateSchema(name, if_not_exists=True))
        await connection.run_sync(metadata.create_all)


async def _awaited(pending: Awaitable[None]) -> None:
    await pending


def _call(function: Callable[..., Awaitable[None]], *arguments: Any, **options: Any) -> None:
    """Run an async function in its own event loop."""
    with start_blocking_portal() as portal:
        portal.call(partial(function, *arguments, **options))
