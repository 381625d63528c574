"""One line in the log for each response that a server cancels because the process is to end.

A server that has waited long enough cancels the responses that are left, and logs each with a
traceback of a hundred lines. It says nothing but that the response was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import anyio

_LOGGERS: Final = ("uvicorn.error", "hypercorn.error")
_BEGINS_TO_CANCEL: Final = "Cancel %s running task(s)"  # uvicorn's
_CANCELLED: Final = (
    asyncio.CancelledError,
    anyio.BrokenResourceError,  # what the rest of the response then meets
    anyio.ClosedResourceError,
)


@contextmanager
def one_line_each(is_ending: Callable[[], bool]) -> Generator[None]:
    """Shorten such records of the servers' loggers, once the process is to end.

    Args:
        is_ending: Whether it is. A server that ends without a signal says so in its log.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    shorten = _Shorten(is_ending)
    for logger in loggers:
        logger.addFilter(shorten)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(shorten)


class _Shorten(logging.Filter):
    def __init__(self, is_ending: Callable[[], bool]) -> None:
        super().__init__()
        self._is_ending = is_ending
        self._has_begun_to_cancel = False

    def filter(self, record: logging.LogRecord) -> bool:
        self._has_begun_to_cancel |= str(record.msg).startswith(_BEGINS_TO_CANCEL)
        error = record.exc_info[1] if record.exc_info else None
        is_ending = self._has_begun_to_cancel or self._is_ending()
        if error is not None and is_ending and _is_cancelled(error):
            record.msg = f"{record.getMessage().strip()}: the response was cancelled"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancelled(each) for each in error.exceptions)
    return isinstance(error, _CANCELLED)
