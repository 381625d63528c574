"""Clean-up, and statements under way, that no cancellation cuts short."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Coroutine, Generator

T = TypeVar("T")

CLEANUP_SECONDS: Final = 5.0
"""How long a clean-up may take; on a connection that hangs it is given up, and that closed."""


class HookCancelledError(RuntimeError):
    """The application's code raised a CancelledError, though no task was cancelled."""


@contextmanager
def own_cancellations() -> Generator[None]:
    """Only ``Task.cancel()`` cancels in this block: any other CancelledError is an error.

    Raises:
        HookCancelledError: The application's code has raised a CancelledError of its own. A task
            group would take that for the quiet end of a task.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise HookCancelledError("a hook or a type of the application's was cancelled") from error


async def complete(
    cleanup: Coroutine[Any, Any, Any] | Task[Any], seconds: float = CLEANUP_SECONDS
) -> None:
    """Await a clean-up to its end, and only then be cancelled.

    A rollback that is cut short leaves its connection in the middle of the protocol. anyio's
    shield keeps the scopes of anyio out but not ``Task.cancel()``, hence the task; and a task
    that nobody awaits would go on behind the caller's back, hence the loop.

    Args:
        cleanup: What is to be done, or is being done already.
        seconds: How long it may take; then it is cancelled.
    """
    task = asyncio.ensure_future(cleanup)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                done, _ = await asyncio.wait({task}, timeout=seconds)
                if not done:
                    task.cancel()
            except asyncio.CancelledError as error:
                cancelled = error
    failure = None if task.cancelled() else task.exception()
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure


async def finished(statement: Coroutine[Any, Any, T]) -> T:
    """Await a short statement to its end, however long that takes, and only then be cancelled.

    A driver gives up a connection whose statement is cancelled; this is for one that belongs to the
    caller, and is in the caller's transaction. A cancellation gives it ``CLEANUP_SECONDS``.

    Args:
        statement: What ends soon, unless the server makes it wait.

    Returns:
        What the statement returns.

    Raises:
        HookCancelledError: The application's code has raised a CancelledError of its own.
    """
    return await _result(asyncio.ensure_future(statement), cancel=False)


async def cancelled_once(statement: Coroutine[Any, Any, T]) -> T:
    """Await a statement; a cancellation reaches it once, and it is awaited all the same.

    What a driver does then is to have the server cancel the statement, over another connection. A
    scope of anyio cancels again and again, also that: the connection is closed, and the server,
    which does not look at it while it waits for a lock, goes on waiting.

    Args:
        statement: What may wait for long in the server.

    Returns:
        What the statement returns.

    Raises:
        HookCancelledError: The application's code has raised a CancelledError of its own.
    """
    return await _result(asyncio.ensure_future(statement), cancel=True)


async def _result(task: Task[T], *, cancel: bool) -> T:
    """A task's result. A cancelled caller also waits until the task has ended."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        if cancel:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await _settled(task)
        raise
    with own_cancellations():
        return task.result()


async def _settled(task: Task[Any]) -> None:
    """Wait until a task has ended. Cancel it again if that takes too long."""
    while not task.done():
        try:
            done, _ = await asyncio.wait({task}, timeout=CLEANUP_SECONDS)
            if not done:
                task.cancel()
        except asyncio.CancelledError:  # the caller is cancelled once the task has ended
            continue
    if not task.cancelled():
        task.exception()
