"""Cleanup and statements that run to their end even if the caller is cancelled."""

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
"""The longest cleanup, in seconds. A connection that hangs longer is closed."""


class HookCancelledError(RuntimeError):
    """Code of the application raised a CancelledError, although no task was cancelled."""


@contextmanager
def own_cancellations() -> Generator[None]:
    """Only ``Task.cancel()`` cancels this block: any other CancelledError becomes an error.

    Raises:
        HookCancelledError: Code of the application raised a CancelledError. A task group would
            treat it as the normal end of a task.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise HookCancelledError("a hook or a type of the application was cancelled") from error


async def complete(
    cleanup: Coroutine[Any, Any, Any] | Task[Any], seconds: float = CLEANUP_SECONDS
) -> None:
    """Run a cleanup to its end. A cancellation of the caller takes effect after that.

    A rollback that is interrupted leaves its connection in the middle of the protocol. A shield of
    anyio stops the cancel scopes of anyio but not ``Task.cancel()``, so the cleanup is a task. The
    loop waits for that task: otherwise it would continue after this function has returned.

    Args:
        cleanup: The cleanup, or a task that already runs it.
        seconds: The longest time that it may take. Then it is cancelled.
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
    """Run a short statement to its end. A cancellation of the caller takes effect after that.

    A driver closes a connection if a statement on it is cancelled. This connection belongs to the
    caller, and is in the caller's transaction. A cancelled statement has ``CLEANUP_SECONDS`` left.

    Args:
        statement: A statement that ends soon, unless the server makes it wait.

    Returns:
        What the statement returns.

    Raises:
        HookCancelledError: Code of the application raised a CancelledError.
    """
    return await _result(asyncio.ensure_future(statement), cancel=False)


async def cancelled_once(statement: Coroutine[Any, Any, T]) -> T:
    """Run a statement. A cancellation is passed on to it once, and then its end is awaited.

    The driver then asks the server, over another connection, to cancel the statement. A cancel
    scope of anyio cancels repeatedly, and would cancel this request too. The connection would be
    closed. The server does not notice that while it waits for a lock, and would keep waiting.

    Args:
        statement: A statement that may wait for a long time in the server.

    Returns:
        What the statement returns.

    Raises:
        HookCancelledError: Code of the application raised a CancelledError.
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
