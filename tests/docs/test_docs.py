"""Every Python snippet of the README and the docs runs, in the order of the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, select, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser
from websockets import ConnectionClosedError, connect

import rowbell
from support.events import listening
from support.models import Base, Order
from support.observed import execute
from support.paths import ROOT
from support.snippets import run, work
from support.web import serve

README = ROOT / "README.md"
DOCS = ROOT / "docs"


def blocks(path: Path, language: str = "python") -> list[str]:
    """The code blocks of a page."""
    found: list[str] = []

    def keep(example: Example) -> None:
        found.append("\n" * (example.line + 1) + str(example.parsed))

    for example in Document.parse(str(path), CodeBlockParser(language, keep)).examples():
        example.evaluate()
    return found


async def declared(namespace: dict[str, Any]) -> None:
    """Add the declarations of the README, which other pages use."""
    for block in blocks(README):
        if "class Base" in block:
            await run(block, README, namespace)


PAGES = [
    "how-to/wait",
    "how-to/follow",
    "how-to/workers",
    "how-to/endpoints",
    "how-to/server-sent-events",
    "how-to/long-polls",
    "how-to/tenants",
    "how-to/migrations",
    "how-to/triggers",
    "how-to/poolers",
    "how-to/psycopg",
    "how-to/operate",
    "how-to/telemetry",
    "how-to/sessions",
    "how-to/locks",
    "how-to/many-to-many",
    "how-to/from-polling-helpers",
    "explanation/scaling",
]
ELSEWHERE = ["index", "first-steps", "how-to/fleet", "how-to/tests"]
"""Pages whose code has a test of its own below."""


@pytest.mark.parametrize("page", PAGES)
async def test_the_docs_run(
    database: URL,
    page: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = DOCS / f"{page}.md"
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    namespace: dict[str, Any] = {
        "__name__": "docs",
        "rowbell": rowbell,
        "AsyncSession": AsyncSession,
        "select": select,
        "op": None,
        "sa": None,
        "DATABASE_URL": database,
        "DIRECT_URL": database,
        "DIRECT_DSN": database.set(drivername="postgresql").render_as_string(hide_password=False),
    }
    await declared(namespace)
    namespace["engine"] = engine = create_async_engine(database)
    namespace["db"] = rowbell.create_db_context(async_sessionmaker(engine))
    async with engine.begin() as connection:
        for statement in ("DROP TABLE items", "DROP TABLE orders"):
            await connection.execute(text(statement))
        await connection.run_sync(namespace["Base"].metadata.create_all)
        await connection.execute(text("INSERT INTO orders VALUES (7, 'new')"))
    stop = asyncio.Event()
    worker = asyncio.create_task(work(database, stop))
    try:
        async with AsyncSession(engine) as session:
            namespace["session"] = session
            for block in blocks(path):
                await run(block, path, namespace)
                await session.rollback()
                async with engine.begin() as connection:
                    await connection.run_sync(namespace["Base"].metadata.create_all)
    finally:
        stop.set()
        await worker
        await engine.dispose()
        if namespace["engine"] is not engine:
            await namespace["engine"].dispose()
    expected = [
        line.rsplit("# ", 1)[1]
        for block in blocks(path)
        for line in block.splitlines()
        if "print(" in line and "# " in line
    ]
    printed = capsys.readouterr().out
    assert all(line in printed for line in expected)


async def test_the_readme_runs(database: URL) -> None:
    """Its loop and its wait return the row. Its endpoint returns a change by another process."""
    namespace: dict[str, Any] = {"__name__": "readme", "DATABASE_URL": database}
    for block in blocks(README):
        if "session, Order, 7" not in block:
            await run(block, README, namespace)
    engine = namespace["engine"]
    async with engine.begin() as connection:
        for statement in ("DROP TABLE items", "DROP TABLE orders"):
            await connection.execute(text(statement))
        await connection.run_sync(namespace["Base"].metadata.create_all)
        await connection.execute(text("INSERT INTO orders VALUES (7, 'paid')"))
    app = namespace["app"]
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.get("/orders/7/next", params={"seen": "new"})
            assert (answer.status_code, answer.json()) == (200, "paid")
            answer = await http.get("/orders/8/next", params={"seen": "new"})
            assert answer.status_code == 404
        namespace["session"] = session = AsyncSession(engine)
        assert (await namespace["paid"](session, 7)).status == "paid"
        [wait] = [block for block in blocks(README) if "session, Order, 7" in block]
        await run(wait, README, namespace)
        assert namespace["order"].status == "paid"
        await session.close()
    await engine.dispose()


@asynccontextmanager
async def served(page: str, database: URL) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """The app that a page builds, with order 7; its URL and the page's names."""
    path = DOCS / "how-to" / f"{page}.md"
    namespace: dict[str, Any] = {"__name__": "docs", "rowbell": rowbell}
    await declared(namespace)
    namespace["engine"] = engine = create_async_engine(database)
    async with engine.begin() as connection:
        for statement in ("DROP TABLE items", "DROP TABLE orders"):
            await connection.execute(text(statement))
        await connection.run_sync(namespace["Base"].metadata.create_all)
        await connection.execute(text("INSERT INTO orders VALUES (7, 'new')"))
    for block in blocks(path):
        await run(block, path, namespace)
    async with serve(namespace["app"], lifespan=True) as url:
        yield url, namespace
    await engine.dispose()


NEW = {"id": 7, "status": "new"}
PAID = {"id": 7, "status": "paid"}


async def test_the_streams_of_the_page_on_server_sent_events_tell_each_state(
    database: URL,
) -> None:
    async with (
        served("server-sent-events", database) as (url, names),
        listening(f"{url}/orders/7/events") as one,
        listening(f"{url}/all-orders/events") as orders,
    ):
        assert (await anext(one)).data == NEW
        assert (await anext(orders)).data == [NEW]
        await execute(names["engine"], "UPDATE orders SET status = 'paid'")
        assert (await anext(one)).data == PAID
        assert (await anext(orders)).data == [PAID]
        await execute(names["engine"], "UPDATE orders SET status = 'delivered'")
        assert [event.name for event in await one.rest()] == [None, "end"]


async def test_the_long_poll_of_its_page_answers_with_the_next_state(database: URL) -> None:
    async with (
        served("long-polls", database) as (url, names),
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = await http.get("/orders/7")
        assert answer.json() == NEW
        known = {"If-None-Match": answer.headers["ETag"]}
        asked = asyncio.create_task(http.get("/orders/7", headers=known))
        await execute(names["engine"], "UPDATE orders SET status = 'paid'")
        assert (await asked).json() == PAID


async def test_the_wait_and_the_websocket_of_the_page_on_endpoints_answer(database: URL) -> None:
    async with (
        served("endpoints", database) as (url, names),
        httpx.AsyncClient(base_url=url) as http,
    ):
        async with connect(f"{url.replace('http', 'ws')}/orders/7/socket") as socket:
            assert json.loads(await socket.recv()) == NEW
            waits = asyncio.create_task(http.get("/orders/7/paid"))
            await execute(names["engine"], "UPDATE orders SET status = 'paid'")
            assert json.loads(await socket.recv()) == PAID
            assert (await waits).json() == "paid"
        async with connect(f"{url.replace('http', 'ws')}/orders/8/socket") as socket:
            with pytest.raises(ConnectionClosedError, match="1008"):
                await socket.recv()


async def test_the_workers_of_their_page_ship_what_is_paid(
    database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waits for one order, and the one that takes whatever comes."""
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    path = DOCS / "how-to" / "workers.md"
    names: dict[str, Any] = {"__name__": "docs"}
    await declared(names)
    one, many, *_ = blocks(path)
    await run(one, path, names)
    await run(many, path, names)
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE items, orders"))
        await connection.run_sync(names["Base"].metadata.create_all)
        await connection.execute(text("INSERT INTO orders VALUES (7, 'new'), (8, 'new')"))
    waiting = asyncio.create_task(names["ship_when_paid"](7))
    await execute(engine, "UPDATE orders SET status = 'paid' WHERE id = 7")
    assert await waiting == "shipped"
    async with rowbell.RowWatcher(engine) as watcher:
        working = asyncio.create_task(names["work"](watcher))
        async with asyncio.timeout(30):
            shipped = watcher.wait_for_change(
                names["Order"], 8, until=names["Order"].status == "shipped"
            )
            waits = asyncio.create_task(shipped)
            await execute(engine, "UPDATE orders SET status = 'paid' WHERE id = 8")
            await waits
        working.cancel()
        await asyncio.wait([working])
    await engine.dispose()


async def test_the_first_steps_print_what_the_page_says(tmp_path: Path) -> None:
    """As a newcomer runs them: without a server, from an empty directory."""
    page = DOCS / "first-steps.md"
    [script] = blocks(page)
    (tmp_path / "shop.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "shop.py", cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert f"```\n{output.decode()}```" in page.read_text()


SHOP = """
from fastapi import FastAPI
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell.fastapi import SessionDep

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="new")

app = FastAPI()

@app.post("/orders/{order_id}")
async def create_order(order_id: int, session: SessionDep) -> None:
    session.add(Order(id=order_id))
"""


def test_the_page_on_tests_is_a_project_whose_tests_pass(pytester: pytest.Pytester) -> None:
    """With a declarative base, and with migrations, as the page shows."""
    by_base, test_orders, by_alembic, test_app, *_ = blocks(DOCS / "how-to" / "tests.md")
    pytester.makepyfile(shop=SHOP, test_orders=test_orders, test_app=test_app)
    for folder in ("migrations", "examples/orders"):
        shutil.copytree(ROOT / folder, pytester.path / folder)
    shutil.copy(ROOT / "alembic.ini", pytester.path)
    pytester.makepyprojecttoml(blocks(DOCS / "how-to" / "tests.md", "toml")[0])
    for conftest in (by_base, by_alembic):
        pytester.makeconftest(conftest)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")
        result.assert_outcomes(passed=2)


async def test_the_rest_of_the_page_on_tests_runs(server: URL, engine: AsyncEngine) -> None:
    path = DOCS / "how-to" / "tests.md"
    namespace: dict[str, Any] = {"__name__": "docs", "rowbell": rowbell, "engine": engine}
    namespace |= {"SERVER_URL": server, "Base": Base, "Order": Order}
    async with AsyncSession(engine) as session:
        namespace["session"] = session
        for block in blocks(path)[4:]:
            await run(block, path, namespace)


def test_the_front_page_shows_the_call_that_the_readme_shows() -> None:
    [shown] = blocks(DOCS / "index.md")
    assert shown.strip() in [block.strip() for block in blocks(README)]


def test_the_code_of_every_page_runs() -> None:
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    with_code = {page for page in pages if blocks(DOCS / f"{page}.md")}
    decisions = {page for page in with_code if page.startswith("decisions/")}
    assert with_code - decisions == {*PAGES, *ELSEWHERE}


def test_each_number_of_the_readme_is_one_of_the_benchmarks() -> None:
    """The numbers in its table, and in its sentence on 10,000 waits."""
    readme, benchmarks = README.read_text(), (DOCS / "explanation" / "benchmarks.md").read_text()
    table = readme.split("## What it costs")[1].split("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    numbers = {number for row in rows for number in re.findall(r"\d+\.\d\d", row)}
    assert len(numbers) > 10
    assert {number for number in numbers if number not in benchmarks} == set()
    assert "0.17 queries a second" in readme
    assert "| queries a second, idle | 0.17" in benchmarks
