"""The signals that tell a process to end.

A server stops to accept connections and waits until all responses have ended. A stream does not
end by itself. So it must be told before the server begins to wait.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = ("SIGTERM", "SIGINT")
_OF_GUNICORN: Final = ("SIGQUIT",)
"""What gunicorn ends its workers with when it was told by SIGINT. Elsewhere it means other things.
Windows does not have it."""


@contextmanager
def called_before_the_end(function: Callable[[], None]) -> Generator[None]:
    """Call a function, in the event loop, when a signal tells the process to end.

    The handler that was there before is called too, and put back at the end of the block, unless
    somebody has set another one meanwhile. A signal that nobody handles is left alone. Python has
    signals in the main thread only; in another one, the function is never called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    names = [*_SIGNALS, *(_OF_GUNICORN if "gunicorn.arbiter" in sys.modules else ())]
    ours: dict[signal.Signals, _Handler] = {}
    for number in [signal.Signals[name] for name in names if hasattr(signal, name)]:
        before = signal.getsignal(number)
        if callable(before):
            ours[number] = _Handler(loop, function, before)
            signal.signal(number, ours[number])
    try:
        yield
    finally:
        for number, handler in ours.items():
            handler.function = None
            if signal.getsignal(number) is handler:
                signal.signal(number, handler.first_in_use())


class _Handler:
    """A handler in front of another one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], None],
        before: Callable[..., Any],
    ) -> None:
        self.function: Callable[[], None] | None = function
        self._loop = loop
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        if self.function is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.function)
        return self._before(number, frame)

    def first_in_use(self) -> Callable[..., Any]:
        """The first handler that is not one of ours that has ended, from this one on."""
        handler: Callable[..., Any] = self
        while isinstance(handler, _Handler) and handler.function is None:
            handler = handler._before  # noqa: SLF001  # of the same class
        return handler
