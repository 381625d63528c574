"""The ways in which a wait is canceled from outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from rowbell import WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import plan
    from tables import Stamped


async def stopped(call: Coroutine[Any, Any, Stamped], operation: plan.Wait) -> Stamped | None:
    """Make the call. Return ``None`` if it was stopped as planned."""
    if operation.manner is None:
        return await call
    if operation.manner == "move_on_after":
        with anyio.move_on_after(operation.stop):
            return await call
        return None
    if operation.manner == "asyncio.timeout":
        try:
            async with asyncio.timeout(operation.stop):
                return await call
        except WaitTimeoutError:
            raise
        except TimeoutError:
            return None
    task = asyncio.create_task(call)
    try:
        await asyncio.wait({task}, timeout=operation.stop)
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
    return None if task.cancelled() else task.result()
