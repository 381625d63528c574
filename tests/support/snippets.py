"""Runs the docs' snippets, with a worker that changes the row they wait for."""

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
    """Run a code block, which may contain ``await``."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, str(path), "exec", flags=flags, dont_inherit=True)
    namespace["__builtins__"] = builtins
    result = types.FunctionType(compiled, namespace)()
    if inspect.iscoroutine(result):
        await result


async def work(url: URL, stop: asyncio.Event) -> None:
    """Change the status of order 7 repeatedly, as the pages say."""
    engine = create_async_engine(url)
    while not stop.is_set():
        for status in ("new", "paid", "delivered", "done"):
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE orders SET status = :s"), {"s": status})
            await asyncio.sleep(0.02)  # the worker's pause between two changes
    await engine.dispose()
