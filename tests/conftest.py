from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import URL, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell._pytest.worker_database import Schema
from support import catalogue
from support.models import Base, Order
from support.proxy import Proxy, proxy_to

pytest_plugins = ["pytester"]

# How long one example takes says something about the machine only.
settings.register_profile("rowbell", settings(), deadline=None)
settings.load_profile("rowbell")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--catalogue", type=Path, help="write what the fault tests measured here")
    parser.addoption("--driver", default="asyncpg", help="the engines' driver, or psycopg")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Add the delays that the test measured, and the numbers of its faults, to its report."""
    delays = catalogue.begin()
    try:
        yield
    finally:
        for marker in item.iter_markers("fault"):
            for number in marker.args:
                item.user_properties.append((number, max(delays, default=None)))


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    page: Path | None = config.getoption("--catalogue")
    if page is None:
        return
    reports = [r for name in ("passed", "failed") for r in terminalreporter.getreports(name)]
    table = catalogue.table(
        (number, delay, report.nodeid)
        for report in reports
        for number, delay in report.user_properties
    )
    terminalreporter.write_line(table)
    if exitstatus == 0:
        catalogue.write(page, table)


@pytest.fixture(scope="session")
def rowbell_server_settings(rowbell_server_settings: Mapping[str, object]) -> Mapping[str, object]:
    return {**rowbell_server_settings, "max_prepared_transactions": 10, "wal_level": "logical"}


@pytest.fixture(scope="session")
def rowbell_driver(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--driver"))


@pytest.fixture(scope="session")
def rowbell_schema() -> Schema:
    return Base


@pytest.fixture(scope="session")
def server(rowbell_server_url: URL) -> URL:
    return rowbell_server_url


@pytest.fixture
def database(rowbell_database: URL) -> URL:
    """A new database for each test, with all models and their triggers."""
    return rowbell_database


@pytest.fixture
def engine(rowbell_engine: AsyncEngine) -> AsyncEngine:
    return rowbell_engine


@pytest.fixture
def order_rows() -> list[dict[str, object]]:
    """The orders at the start of a test; a module may override this."""
    return [{"id": id_} for id_ in range(1, 101)]


@pytest.fixture
async def orders(engine: AsyncEngine, order_rows: list[dict[str, object]]) -> AsyncEngine:
    """The engine of a database with orders."""
    async with engine.begin() as connection:
        await connection.execute(insert(Order), order_rows)
    return engine


@pytest.fixture
async def proxy(database: URL) -> AsyncIterator[Proxy]:
    """A proxy between the test and its database."""
    async with proxy_to(database) as proxy:
        yield proxy


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@pytest.fixture
async def other(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """The session of another user, on another connection."""
    async with AsyncSession(engine) as session:
        yield session
