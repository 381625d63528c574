"""What a relay sends, and when it may.

A process that was stopped for a while and goes on does not know how long that was. Another relay
may lead by now. So a relay sends only while a query that it sent a short time ago was answered:
until then the server has kept its lock. What is to be sent meanwhile is held, and keeps its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rowbell._watch.wire import envelopes, messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.reasons import Reason
    from rowbell._watch.wire.transport import Peer
    from rowbell.relay.session import Session

_MUCH: Final = 5_000
"""With this many messages that are held, hints wait."""


class Outgoing:
    """The messages of one term.

    Args:
        term: The number of the term.
        epoch: Its ID.
        lasts: How long an answered query holds, in seconds.
        clock: The time, in seconds.
        held: Called when a message is held, so that the server is queried soon.
    """

    def __init__(
        self,
        term: int,
        epoch: str,
        *,
        lasts: float,
        clock: Callable[[], float],
        held: Callable[[], None],
    ) -> None:
        self.sent: int = 0
        self._term = term
        self._epoch = epoch
        self._lasts = lasts
        self._clock = clock
        self._on_held = held
        self._confirmed = clock()
        self._held: list[tuple[Peer, bytes]] = []

    @property
    def is_busy(self) -> bool:
        """Whether many messages are held."""
        return len(self._held) > _MUCH

    @property
    def depth(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def confirmed(self, asked: float) -> None:
        """A query that was sent then is answered: this relay led at that time."""
        self._confirmed = max(self._confirmed, asked)
        if self._held and self._may_speak():
            held, self._held = self._held, []
            for peer, data in held:
                peer.send(data)

    def send(self, session: Session, message: messages.FromRelay) -> None:
        """Send the next message of a session."""
        session.sent += 1
        data = self._encoded(session, session.sent, message)
        if self._held or not self._may_speak():
            self._held.append((session.peer, data))
            self._on_held()
        else:
            session.peer.send(data)

    def end(self, session: Session, reason: Reason, detail: str) -> None:
        """Tell a process that its session has ended, at once: that is right in any term."""
        session.peer.send(self._encoded(session, 0, messages.Ended(reason.value, detail)))

    def refuse(self, stranger: Session, reason: Reason, detail: str) -> None:
        """Tell a process that it has no session here, unless another relay may know it."""
        if self._may_speak():
            self.end(stranger, reason, detail)

    def _encoded(self, session: Session, number: int, message: messages.FromRelay) -> bytes:
        self.sent += 1
        answer = envelopes.Answer(
            session=session.public,
            term=self._term,
            epoch=self._epoch,
            number=number,
            message=message,
        )
        return envelopes.encode(answer)

    def _may_speak(self) -> bool:
        return self._clock() < self._confirmed + self._lasts
