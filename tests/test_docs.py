"""Every Python snippet of the README and the docs runs, in the order in which it is read."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import types
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

import rowbell

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def blocks(path: Path) -> list[str]:
    """The Python blocks of a page."""
    found: list[str] = []

    def keep(example: Example) -> None:
        found.append("\n" * (example.line + 1) + str(example.parsed))

    for example in Document.parse(str(path), CodeBlockParser("python", keep)).examples():
        example.evaluate()
    return found


async def run(code: str, path: Path, namespace: dict[str, Any]) -> None:
    """Run a block, which may await."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, str(path), "exec", flags=flags, dont_inherit=True)
    namespace["__builtins__"] = builtins
    result = types.FunctionType(compiled, namespace)()
    if inspect.iscoroutine(result):
        await result


async def declared(namespace: dict[str, Any]) -> None:
    """What the README declares, which the other pages use."""
    for block in blocks(README):
        if "class Base" in block:
            await run(block, README, namespace)


async def work(url: URL, stop: asyncio.Event) -> None:
    """Moves order 7 on, again and again, as the pages say."""
    engine = create_async_engine(url)
    while not stop.is_set():
        for status in ("new", "paid", "delivered", "done"):
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE orders SET status = :s"), {"s": status})
            await asyncio.sleep(0.02)
    await engine.dispose()


@pytest.mark.parametrize("page", ["waiting", "triggers", "operating"])
async def test_the_docs_run(database: URL, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "docs" / f"{page}.md"
    namespace: dict[str, Any] = {"__name__": "docs", "rowbell": rowbell, "DIRECT_URL": database}
    await declared(namespace)
    namespace["engine"] = engine = create_async_engine(database)
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
    finally:
        stop.set()
        await worker
        await engine.dispose()
    expected = [
        line.rsplit("# ", 1)[1]
        for block in blocks(path)
        for line in block.splitlines()
        if "print(" in line and "# " in line
    ]
    printed = capsys.readouterr().out
    assert all(line in printed for line in expected)


async def test_the_readme_runs(database: URL) -> None:
    """Its endpoint returns what another process has changed."""
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
    async with namespace["lifespan"](namespace["app"]):
        assert await namespace["next_state"](7, "new") == "paid"
        namespace["session"] = session = AsyncSession(engine)
        await run(blocks(README)[0], README, namespace)
        await session.close()
    await engine.dispose()
