"""One object for each engine in each event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqlalchemy import Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")


class PerEngine(Generic[T]):
    """At most one object for each engine in each event loop.

    The key is the engine's dialect: copies by ``execution_options()`` share it, and it survives
    ``dispose()``.
    """

    def __init__(self) -> None:
        self._objects: WeakKeyDictionary[AbstractEventLoop, dict[Dialect, T]] = WeakKeyDictionary()

    def get(self, engine: AsyncEngine) -> T | None:
        """The object of an engine in the running event loop."""
        return self._objects.get(asyncio.get_running_loop(), {}).get(engine.dialect)

    def add(self, engine: AsyncEngine, one: T) -> None:
        """Add the object of an engine in the running event loop."""
        self._objects.setdefault(asyncio.get_running_loop(), {})[engine.dialect] = one

    def remove(self, loop: AbstractEventLoop, engine: AsyncEngine, one: T) -> None:
        """Remove the object of an engine in an event loop, if it is this one."""
        objects = self._objects.get(loop, {})
        if objects.get(engine.dialect) is one:
            del objects[engine.dialect]
