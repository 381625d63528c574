"""Something that is awaited, until something else happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import anyio

T = TypeVar("T")
End: TypeAlias = tuple[Callable[[], Awaitable[Any]], Exception]
"""What may happen: a coroutine function that returns then, and the error that it means."""


async def unless(awaitable: Awaitable[T], ends: list[End]) -> T:
    """The result of the awaitable, which is cancelled as soon as one of the others has happened.

    A result that is there already is returned nevertheless.

    Raises:
        Exception: That of the awaitable, or of the end that has happened.
    """
    ended: list[Exception] = []
    results: list[T] = []
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:

        async def end_when(happens: Callable[[], Awaitable[Any]], error: Exception) -> None:
            await happens()
            ended.append(error)
            tasks.cancel_scope.cancel()

        for happens, error in ends:
            tasks.start_soon(end_when, happens, error)
        try:
            results.append(await awaitable)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
            # It is raised below, without an exception group.
            failure = error
        tasks.cancel_scope.cancel()
    if results:
        return results[0]
    raise failure or ended[0]
