"""Snippets of the docs, and the worker that changes the row that they wait for."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import types
from pathlib import Path
from typing import Any

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine


async def run(code: str, path: Path, namespace: dict[str, Any]) -> None:
    """Run a block, which may await."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, str(path), "exec", flags=flags, dont_inherit=True)
    namespace["__builtins__"] = builtins
    result = types.FunctionType(compiled, namespace)()
    if inspect.iscoroutine(result):
        await result


async def work(url: URL, stop: asyncio.Event) -> None:
    """Moves order 7 on, again and again, as the pages say."""
    engine = create_async_engine(url)
    while not stop.is_set():
        for status in ("new", "paid", "delivered", "done"):
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE orders SET status = :s"), {"s": status})
            await asyncio.sleep(0.02)  # the pace of a worker, not a wait for anything
    await engine.dispose()
