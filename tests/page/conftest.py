"""The example app in processes of its own, and a real browser that looks at it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright
from sqlalchemy import URL

from rowbell import create_database, drop_database
from support.observed import execute
from support.paths import ROOT
from support.site import Site

HERE = ROOT / "examples" / "orders"


@pytest.fixture
async def orders_database(server: URL) -> AsyncIterator[URL]:
    """A database that was migrated, with three orders."""
    name = f"page_{os.getpid()}"
    await drop_database(name, server_url=server, missing_ok=True)
    await create_database(name, server_url=server)
    url = server.set(database=name, drivername="postgresql+asyncpg")
    environment = os.environ | {"DATABASE_URL": url.render_as_string(hide_password=False)}
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"]
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await process.wait() == 0
    rows = "SELECT 'new', 'A bell' FROM generate_series(1, 3)"
    await execute(url, f"INSERT INTO orders (status, item) {rows}")
    yield url
    await drop_database(name, server_url=server)


@pytest.fixture
async def site(orders_database: URL) -> AsyncIterator[Site]:
    """The app, served by uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = Site(orders_database, port, HERE)
    await site.start()
    yield site
    await site.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, or another one that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("install chromium: apt-get install chromium")
        pytest.skip("no chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A tab. A script that fails fails the test."""
    page = await browser.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    assert failures == []
