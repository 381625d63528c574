"""The streams of a watcher: what iterates on and on, and ends when the process is to end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakSet

from rowbell.errors import WatcherStateError

if TYPE_CHECKING:
    from collections.abc import Callable


class Stream(Protocol):
    """A follow of one or many rows, or the changes of a table."""

    def close(self) -> None:
        """End it. An iteration that is under way ends too."""
        ...


StreamT = TypeVar("StreamT", bound=Stream)


class Streams:
    """The open streams. It does not keep them: a stream that is dropped has ended.

    Attributes:
        closing: Set when they close.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._open: WeakSet[Stream] = WeakSet()

    def begin(self, make: Callable[[], StreamT]) -> StreamT:
        """A new stream.

        Raises:
            WatcherStateError: The streams have been closed.
        """
        if self.closing.is_set():
            raise WatcherStateError(
                "the watcher's streams are closed, because the process is to end: "
                "begin no others, and let the client connect again"
            )
        stream = make()
        self._open.add(stream)
        return stream

    def close(self) -> None:
        """End all streams, and refuse new ones."""
        self.closing.set()
        for stream in list(self._open):
            stream.close()
