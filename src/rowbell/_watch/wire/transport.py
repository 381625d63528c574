"""What a way between processes and a relay promises.

It carries bytes, and need not deliver all of them, or only once: messages are numbered, and pings
show whether the way works. But it must not change their order without a hole showing, and it must
say so when it is closed. Nothing here awaits while it sends or receives: what arrives is passed on
in the order of arrival, in one call each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager


class LinkError(Exception):
    """The relay cannot be reached, or the way to it is closed.

    Args:
        detail: What was observed.
        is_forbidden: Whether a right is missing.
    """

    def __init__(self, detail: str, *, is_forbidden: bool = False) -> None:
        self.detail = detail
        self.is_forbidden = is_forbidden
        super().__init__(detail)


class Link(Protocol):
    """A process's way to the relay."""

    def send(self, data: bytes) -> None:
        """Send a message. If the way is closed, nothing happens."""
        ...


class Notifies(Protocol):
    """Where a process finds its relay; ``RowWatcher(notifier=…)`` takes it."""

    def link(
        self, session: str, received: Callable[[bytes], None], lost: Callable[[LinkError], None]
    ) -> AbstractAsyncContextManager[Link]:
        """Connect to the relay.

        Args:
            session: The hash of the session's ID: messages to this session only are received.
            received: Called with each message.
            lost: Called when the way is closed by another than the block's end.

        Raises:
            LinkError: The relay cannot be reached.
        """
        ...


class Peer(Protocol):
    """A relay's way to one process. Two peers of the same process are equal."""

    @property
    def is_busy(self) -> bool:
        """Whether much is still to be sent."""
        ...

    def send(self, data: bytes) -> None:
        """Send a message. If the way is closed, nothing happens."""
        ...


class Port(Protocol):
    """Where a relay can be reached."""

    @property
    def name(self) -> str:
        """A name of the place; relays with the same name stand by for each other."""
        ...

    def connected(self, lost: Callable[[LinkError], None]) -> AbstractAsyncContextManager[None]:
        """Have what is needed to become reachable, during the block.

        Args:
            lost: Called when it is lost.

        Raises:
            LinkError: That is not possible.
        """
        ...

    def open(
        self, received: Callable[[Peer, bytes], None], gone: Callable[[Peer], None]
    ) -> AbstractAsyncContextManager[None]:
        """Be reachable during the block, which is inside of one of ``connected``.

        Args:
            received: Called with each message, and whom it came from.
            gone: Called when a process can no longer be reached.

        Raises:
            LinkError: That is not possible.
        """
        ...
