"""The signals that tell a process to end.

A server stops to accept connections and waits until all responses have ended. A stream does not
end by itself. So it must be told before the server begins to wait.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT")  # gunicorn ends its workers with the last one
    if hasattr(signal, name)  # Windows has no SIGQUIT
]


@contextmanager
def called_before_the_end(function: Callable[[], None]) -> Generator[None]:
    """Call a function, in the event loop, when a signal tells the process to end.

    The handler that was there before is called too, and put back at the end of the block, unless
    somebody has set another one meanwhile. A signal that nobody handles is left alone. Python
    has signals in the main thread only; in another one, the function is never called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    ours: dict[signal.Signals, tuple[Callable[..., Any], Callable[..., Any]]] = {}
    for number in _SIGNALS:
        before = signal.getsignal(number)
        if callable(before):
            handler = _handler(loop, function, before)
            signal.signal(number, handler)
            ours[number] = (handler, before)
    try:
        yield
    finally:
        for number, (handler, before) in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before)


def _handler(
    loop: asyncio.AbstractEventLoop, function: Callable[[], None], before: Callable[..., Any]
) -> Callable[[int, FrameType | None], Any]:
    def handle(number: int, frame: FrameType | None) -> Any:
        if not loop.is_closed():
            loop.call_soon_threadsafe(function)
        return before(number, frame)

    return handle
