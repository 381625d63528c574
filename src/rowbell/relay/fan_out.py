"""From one notification to the processes that need the row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rowbell._watch.notifiers.notification import Merged, Notification
from rowbell._watch.notifiers.payload import Announcement, decode
from rowbell._watch.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rowbell.relay.outgoing import Outgoing
    from rowbell.relay.role_listener import RoleListener
    from rowbell.relay.session import Session, Sessions

_KEYS: Final = 5_000
"""With more keys in one message, it says "any row of the table"."""

_PAUSE: Final = 0.02
"""How often those are looked at to which much is on its way, in seconds."""

_LONGEST: Final = 1.0
"""For how long a hint is held at most, in seconds.

A process relies on the relay while its pings are answered, also by a relay that is always busy."""


@dataclass(slots=True)
class _Held:
    """What a process is to hear once less is on its way to it."""

    since: float
    merged: Merged = field(default_factory=Merged)


class FanOut:
    """Passes notifications on. All that arrive in one turn of the event loop are merged.

    So are all that arrive while much is still to be sent to a process, for a second at most. It
    hears of a row that changes again and again as often as it can be told, and what answers its
    pings does not wait.

    Args:
        outgoing: What is sent to processes.
        sessions: The sessions of processes.
        announced: Called when triggers were created or dropped.

    Attributes:
        notifications: The number of notifications that were understood.
    """

    def __init__(
        self, outgoing: Outgoing, sessions: Sessions, announced: Callable[[], None]
    ) -> None:
        self.notifications: int = 0
        self._outgoing = outgoing
        self._sessions = sessions
        self._announced = announced
        self._received: dict[RoleListener, Merged] = {}
        self._held: dict[Session, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def close(self) -> None:
        """Pass nothing on any more."""
        self._is_over = True
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

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
            for one in merged:
                for session, keys in listener.concerned(one.table_oid, one.keys).items():
                    if session in self._held or self._is_busy(session):
                        self._hold(session, one.table_oid, keys)
                    else:
                        self._tell(session, one.table_oid, keys)

    def _tell(self, session: Session, table_oid: int | None, keys: Sequence[int] | None) -> None:
        few = None if keys is None or len(keys) > _KEYS else list(keys)
        self._outgoing.send(session, messages.Changed(table_oid, few))

    # -- processes to which much is on its way

    def _hold(self, session: Session, table_oid: int | None, keys: list[int] | None) -> None:
        if self._is_over:
            return
        loop = asyncio.get_running_loop()
        held = self._held.setdefault(session, _Held(loop.time()))
        held.merged.add(Notification(table_oid, None if keys is None else tuple(keys)))
        if self._timer is None:
            self._timer = loop.call_later(_PAUSE, self._tell_held)

    def _tell_held(self) -> None:
        loop = asyncio.get_running_loop()
        long_ago = loop.time() - _LONGEST
        for session, held in list(self._held.items()):
            if session not in self._sessions:
                del self._held[session]
            elif held.since <= long_ago or not self._is_busy(session):
                del self._held[session]
                for one in held.merged:
                    self._tell(session, one.table_oid, one.keys)
        self._timer = loop.call_later(_PAUSE, self._tell_held) if self._held else None

    def _is_busy(self, session: Session) -> bool:
        return session.peer.is_busy or self._outgoing.is_busy
