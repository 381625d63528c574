"""Cleanup and statements while a task is being canceled."""

from __future__ import annotations

import asyncio

import pytest

from rowbell._cancellation import cancelled_once, complete


async def test_a_clean_up_that_fails_while_it_is_cancelled_is_not_reported() -> None:
    """The caller gets the cancellation instead."""
    begun = asyncio.Event()

    async def clean_up() -> None:
        begun.set()
        await asyncio.sleep(0.01)  # the work of the cleanup; the task is canceled here
        raise ValueError

    task = asyncio.create_task(complete(clean_up()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_of_the_applications_own_is_an_error_of_its_statement() -> None:
    async def statement() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="was cancelled"):
        await cancelled_once(statement())
