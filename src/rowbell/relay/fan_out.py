"""From one notification to the processes that need the row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from rowbell._watch.notifiers.notification import Merged, Notification
from rowbell._watch.notifiers.payload import Announcement, decode
from rowbell._watch.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rowbell.relay.outgoing import Outgoing
    from rowbell.relay.role_listener import RoleListener

_KEYS: Final = 5_000
"""With more keys in one message, it says "any row of the table"."""


class FanOut:
    """Passes notifications on. All that arrive in one turn of the event loop are merged.

    Args:
        outgoing: What is sent to processes.
        announced: Called when triggers were created or dropped.

    Attributes:
        notifications: The number of notifications that were understood.
    """

    def __init__(self, outgoing: Outgoing, announced: Callable[[], None]) -> None:
        self.notifications: int = 0
        self._outgoing = outgoing
        self._announced = announced
        self._received: dict[RoleListener, Merged] = {}

    def notified(self, listeners: Iterable[RoleListener], payload: str) -> None:
        """Process a payload that was sent to these listeners."""
        said = decode(payload)
        if isinstance(said, Announcement):
            self._announced()
        elif said is not None:
            self.notifications += 1
            if not self._received:
                asyncio.get_running_loop().call_soon(self._pass_on)
            for listener in listeners:
                self._received.setdefault(listener, Merged()).add(said)

    def _pass_on(self) -> None:
        received, self._received = self._received, {}
        for listener, merged in received.items():
            if merged.everything:
                self._tell(listener, Notification(None, None))
                continue
            for oid, keys in merged.keys.items():
                self._tell(listener, Notification(oid, None if keys is None else tuple(keys)))

    def _tell(self, listener: RoleListener, notification: Notification) -> None:
        concerned = listener.concerned(notification.table_oid, notification.keys)
        for session, keys in concerned.items():
            few = keys if keys is None or len(keys) <= _KEYS else None
            self._outgoing.send(session, messages.Changed(notification.table_oid, few))
