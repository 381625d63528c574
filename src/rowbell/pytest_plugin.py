"""Fixtures for pytest: a server, a migrated template, a clean database for each test.

pytest loads this module by itself (entry point ``pytest11``); nothing happens until a test
asks for a fixture. Override ``rowbell_schema`` in ``conftest.py``, and others as you like.

::

    rowbell_server_settings    session   settings of the embedded server
    rowbell_server_url         session   the embedded server, or the one of DATABASE_URL
    rowbell_schema             session   yours: what the databases contain
    rowbell_template           session   a database with that schema, made once a run
    rowbell_worker_database    session   the worker's own clone of the template
    rowbell_database           function  its URL, as clean as the template
    rowbell_engine             function  an engine on it
    rowbell_session            function  a session on that, whose commits are commits
    rowbell_rollback_session   function  a session whose commits are rolled back afterwards

With pytest-xdist all workers share the server and the template; the last to leave ends them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from anyio.from_thread import start_blocking_portal
from sqlalchemy import URL, MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from rowbell.embedded import EmbeddedServer, named_server
from rowbell.shared import shared
from rowbell.testing import create_database, drop_database, rolled_back_session

if find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as async_fixture
else:  # anyio's own plugin runs async fixtures too
    async_fixture = pytest.fixture  # type: ignore[assignment]

Schema: TypeAlias = (
    type[DeclarativeBase] | MetaData | Callable[[URL], None] | Callable[[URL], Awaitable[None]]
)
"""A declarative base or metadata to create, or a function that migrates the database at a URL."""


@pytest.fixture(scope="session")
def rowbell_server_settings() -> Mapping[str, object]:
    """Settings of the embedded server: it need not survive a crash, so it does not sync."""
    return {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": 200,
    }


@pytest.fixture(scope="session")
def rowbell_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the processes of this test run have in common."""
    directory = tmp_path_factory.getbasetemp()
    worker = getattr(request.config, "workerinput", None)  # pytest-xdist's, in its workers
    if worker is None:
        return Run(directory, uuid4().hex[:12], "main")
    return Run(directory.parent, worker["testrunuid"][:12], worker["workerid"])


@pytest.fixture(scope="session")
def rowbell_server_url(
    rowbell_run: Run, rowbell_server_settings: Mapping[str, object]
) -> Iterator[URL]:
    """The server of ``DATABASE_URL``, or else an embedded one that ends with the test run.

    On the server that it names, only databases are used that the run has made.
    """
    named = named_server()
    if named is not None:
        yield named
        return

    def start() -> str:
        return str(EmbeddedServer(rowbell_server_settings).__enter__().root)

    def stop(root: str) -> None:
        with EmbeddedServer(root=Path(root)):
            pass

    with shared(rowbell_run.directory, "server", start, stop) as root:
        yield EmbeddedServer(root=Path(root)).url


@pytest.fixture(scope="session")
def rowbell_schema() -> Schema:
    """What the databases contain; yours to override.

    Return your declarative base (or its metadata), which is created with all its schemas, or a
    function, async or not, that takes a URL and migrates that database.
    """
    raise pytest.UsageError(
        "rowbell's fixtures need to know what a database contains: in conftest.py, define a "
        "session fixture rowbell_schema that returns your declarative base, or a function of a "
        "URL that migrates that database"
    )


@pytest.fixture(scope="session")
def rowbell_template(
    rowbell_run: Run, rowbell_server_url: URL, rowbell_schema: Schema
) -> Iterator[str]:
    """The name of a database with ``rowbell_schema`` in it, made once a test run."""

    def make() -> str:
        name = f"rowbell_{rowbell_run.uid}_template"
        _call(create_database, name, server_url=rowbell_server_url)
        try:
            _fill(rowbell_server_url.set(database=name), rowbell_schema)
        except BaseException:
            drop(name)
            raise
        return name

    def drop(name: str) -> None:
        _call(drop_database, name, server_url=rowbell_server_url)

    with shared(rowbell_run.directory, "template", make, drop) as name:
        yield name


@pytest.fixture(scope="session")
def rowbell_worker_database(
    rowbell_run: Run, rowbell_server_url: URL, rowbell_template: str
) -> Iterator[WorkerDatabase]:
    """The worker's own clone of the template."""
    name = f"rowbell_{rowbell_run.uid}_{rowbell_run.worker}"
    database = WorkerDatabase(rowbell_server_url, name, rowbell_template)
    yield database
    database.drop()


@pytest.fixture
def rowbell_database(rowbell_worker_database: WorkerDatabase) -> Iterator[URL]:
    """The URL of the worker's database, as clean as the template.

    It is cloned anew after a test that has used this fixture: rows, sequences, triggers and
    whatever else a test has changed are as they were. Connections that were left are ended.
    """
    with rowbell_worker_database.lent() as url:
        yield url


@async_fixture
async def rowbell_engine(rowbell_database: URL) -> AsyncGenerator[AsyncEngine, None]:
    """An engine on ``rowbell_database``."""
    engine = create_async_engine(rowbell_database)
    yield engine
    await engine.dispose()


@async_fixture
async def rowbell_session(rowbell_engine: AsyncEngine) -> AsyncGenerator[AsyncSession, None]:
    """A session on ``rowbell_engine``: what it commits is committed, and can be waited for."""
    async with AsyncSession(rowbell_engine, expire_on_commit=False) as session:
        yield session


@async_fixture
async def rowbell_rollback_session(
    rowbell_worker_database: WorkerDatabase,
) -> AsyncGenerator[AsyncSession, None]:
    """A session whose work is rolled back after the test, its commits included.

    Sequences are not rolled back: ids go on where the test before has left them.
    """
    engine = create_async_engine(rowbell_worker_database.to_roll_back(), poolclass=NullPool)
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        yield session


@dataclass(frozen=True, slots=True)
class Run:
    """One test run.

    Attributes:
        directory: Where its processes keep what they share.
        uid: Tells its databases from those of other runs on the same server.
        worker: The name of this process in it.
    """

    directory: Path
    uid: str
    worker: str


class Condition(StrEnum):
    """What a worker's database may contain beside the template."""

    CLEAN = "clean"
    """Nothing."""
    ROLLED_BACK = "rolled back"
    """Sequences that have moved; no rows."""
    LENT = "lent"
    """What the test does that has it now."""
    DIRTY = "dirty"
    """Anything, or there is no such database."""


class WorkerDatabase:
    """A clone of the template, made anew when it is wanted clean and may not be.

    Args:
        server_url: A URL of the server.
        name: The clone's name.
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
        """Its URL, clean; for a test that may change it."""
        if self.condition is not Condition.CLEAN:
            self._clone()
        self.condition = Condition.LENT
        yield self._url
        self.condition = Condition.DIRTY

    def to_roll_back(self) -> URL:
        """Its URL, for work that is rolled back; that of the same test that it is lent to, too."""
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
        """Drop it, if it is there."""
        _call(drop_database, self._name, server_url=self._server_url, missing_ok=True)


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
    """Run an async function in an event loop of its own, whatever runs the tests."""
    with start_blocking_portal() as portal:
        portal.call(partial(function, *arguments, **options))
