"""Fixtures for pytest: a server, a migrated template, a clean database for each test.

pytest loads this module automatically (entry point ``pytest11``), in every test run of an
environment that has rowbell. So it imports nothing and does nothing until a test uses a fixture.
Override ``rowbell_schema`` in ``conftest.py``, and other fixtures as needed.

::

    rowbell_server_settings    session   settings of the embedded server
    rowbell_server_url         session   the embedded server, or the server in DATABASE_URL
    rowbell_schema             session   you define it: the contents of the databases
    rowbell_template           session   a database with that schema, created once a run
    rowbell_worker_database    session   the worker's own copy of the template
    rowbell_driver             session   the driver of the engines, asyncpg by default
    rowbell_database           function  its URL; it is as clean as the template
    rowbell_engine             function  an engine on it
    rowbell_session            function  a session on that engine, with real commits
    rowbell_rollback_session   function  a session whose commits are rolled back afterwards

With pytest-xdist all workers share the server and the template; the last worker destroys them.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from rowbell._pytest.worker_database import Run, Schema, WorkerDatabase

if find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as async_fixture
else:  # anyio's own plugin runs async fixtures too
    async_fixture = pytest.fixture  # type: ignore[assignment]


@pytest.fixture(scope="session")
def rowbell_server_settings() -> Mapping[str, object]:
    """Settings of the embedded server. It need not survive a crash, so ``fsync`` is off."""
    return {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": 200,
    }


@pytest.fixture(scope="session")
def rowbell_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the processes of this test run share."""
    from rowbell._pytest.worker_database import Run

    directory = tmp_path_factory.getbasetemp()
    worker = getattr(request.config, "workerinput", None)  # pytest-xdist's, in its workers
    if worker is None:
        return Run(directory, uuid4().hex[:12], "main")
    return Run(directory.parent, worker["testrunuid"][:12], worker["workerid"])


@pytest.fixture(scope="session")
def rowbell_server_url(
    rowbell_run: Run, rowbell_server_settings: Mapping[str, object]
) -> Iterator[URL]:
    """The server in ``DATABASE_URL``, or else an embedded one that ends with the test run.

    On the server in ``DATABASE_URL``, only databases that this run has created are used.
    """
    from rowbell._pytest.shared import shared
    from rowbell.embedded import EmbeddedServer, named_server

    named = named_server()
    if named is not None:
        yield named
        return

    def start() -> str:
        return str(EmbeddedServer(rowbell_server_settings).__enter__().root)

    def stop(root: str) -> None:
        EmbeddedServer(root=Path(root)).__enter__().remove()

    with shared(rowbell_run.directory, "server", start, stop) as root:
        yield EmbeddedServer(root=Path(root)).url


@pytest.fixture(scope="session")
def rowbell_schema() -> Schema:
    """The contents of the databases. Override this fixture.

    Return your declarative base (or its metadata), which is created with all its schemas. Or
    return a function, async or not, that takes a URL and migrates that database.
    """
    raise pytest.UsageError(
        "rowbell's fixtures need the contents of a database: in conftest.py, define a session "
        "fixture rowbell_schema that returns your declarative base, or a function that takes a "
        "URL and migrates that database"
    )


@pytest.fixture(scope="session")
def rowbell_template(
    rowbell_run: Run, rowbell_server_url: URL, rowbell_schema: Schema
) -> Iterator[str]:
    """The name of a database with ``rowbell_schema`` in it, created once a test run."""
    from rowbell._pytest.shared import shared
    from rowbell._pytest.worker_database import create_template, drop_template

    def make() -> str:
        name = f"rowbell_{rowbell_run.uid}_template"
        create_template(rowbell_server_url, name, rowbell_schema)
        return name

    drop = partial(drop_template, rowbell_server_url)
    with shared(rowbell_run.directory, "template", make, drop) as name:
        yield name


@pytest.fixture(scope="session")
def rowbell_worker_database(
    rowbell_run: Run, rowbell_server_url: URL, rowbell_template: str
) -> Iterator[WorkerDatabase]:
    """The worker's own copy of the template."""
    from rowbell._pytest.worker_database import WorkerDatabase

    name = f"rowbell_{rowbell_run.uid}_{rowbell_run.worker}"
    database = WorkerDatabase(rowbell_server_url, name, rowbell_template)
    yield database
    database.drop()


@pytest.fixture
def rowbell_database(rowbell_worker_database: WorkerDatabase) -> Iterator[URL]:
    """The URL of the worker's database, which is as clean as the template.

    It is copied again after a test that has used this fixture. So rows, sequences, triggers and
    everything else are as in the template. Connections that are still open are closed.
    """
    with rowbell_worker_database.lent() as url:
        yield url


@pytest.fixture(scope="session")
def rowbell_driver() -> str:
    """The driver of the engines. Override it with ``"psycopg"`` to test with psycopg 3."""
    return "asyncpg"


@async_fixture
async def rowbell_engine(
    rowbell_database: URL, rowbell_driver: str
) -> AsyncGenerator[AsyncEngine, None]:
    """An engine on ``rowbell_database``."""
    from sqlalchemy.ext.asyncio import create_async_engine

    from rowbell._urls import url_for

    engine = create_async_engine(url_for(rowbell_driver, rowbell_database))
    yield engine
    await engine.dispose()


@async_fixture
async def rowbell_session(rowbell_engine: AsyncEngine) -> AsyncGenerator[AsyncSession, None]:
    """A session on ``rowbell_engine``. Its commits are real, so others can wait for them."""
    from sqlalchemy.ext.asyncio import AsyncSession

    async with AsyncSession(rowbell_engine, expire_on_commit=False) as session:
        yield session


@async_fixture
async def rowbell_rollback_session(
    rowbell_worker_database: WorkerDatabase, rowbell_driver: str
) -> AsyncGenerator[AsyncSession, None]:
    """A session whose work is rolled back after the test, including its commits.

    Sequences are not rolled back: ids continue from those of the previous test.
    """
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from rowbell._urls import url_for
    from rowbell.testing import rolled_back_session

    url = url_for(rowbell_driver, rowbell_worker_database.to_roll_back())
    engine = create_async_engine(url, poolclass=NullPool)
    async with rolled_back_session(engine, expire_on_commit=False) as session:
        yield session
