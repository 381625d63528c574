"""One line in the log for each response that a server cancels because the process is to end.

A server that has waited long enough cancels the responses that are left, and logs each with a
traceback of a hundred lines. It says nothing but that the response was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio

_LOGGERS: Final = ("uvicorn.error", "hypercorn.error")
_CANCELLED: Final = (
    asyncio.CancelledError,
    anyio.BrokenResourceError,  # what the rest of the response then meets
    anyio.ClosedResourceError,
)


@contextmanager
def one_line_each() -> Generator[None]:
    """Shorten such records of the servers' loggers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    shorten = _Shorten()
    for logger in loggers:
        logger.addFilter(shorten)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(shorten)


class _Shorten(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _is_cancelled(error):
            record.msg = f"{record.getMessage().strip()}: the response was cancelled"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancelled(each) for each in error.exceptions)
    return isinstance(error, _CANCELLED)
