"""Clean-up that no cancellation cuts short."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Coroutine

CLEANUP_SECONDS: Final = 5.0
"""How long a clean-up may take; on a connection that hangs it is given up, and that closed."""


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
    if cancelled is not None:
        raise cancelled
    if not task.cancelled():
        task.result()
