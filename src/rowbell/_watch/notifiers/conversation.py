"""What a process and its relay say to each other in one session, in numbered messages.

All that the relay says arrives in one call, ``receive``, which never waits, and in one sequence of
numbers: answers, notifications and gaps keep their order. Late messages fill no hole. The process
pings each second, and relies on nothing if no recent ping was answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.reasons import Reason
from rowbell._watch.wire import envelopes, messages
from rowbell._watch.wire.rhythm import Freshness

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.wire.rhythm import Rhythm
    from rowbell._watch.wire.transport import Link

_SELDOM: Final = 30.0
"""The longest interval, in seconds, at which a process polls because its relay says so."""


class Conversation:
    """The messages of one session.

    Args:
        session_id: The session's secret ID.
        rhythm: The times between the process and the relay.
        answer: The longest time that an answer may take, in seconds.
        said: Called with each message of the relay, in order.
        missed: Called with the number of messages that were lost.
        lost: Called when the session is lost.

    Attributes:
        loss: Why the session is lost; ``None`` while it is not.
        term: The number of the relay's term; 0 before the relay has answered.
        rows: The rows that the process has asked for. Each ping tells how many, and their checksum.
        polling: The interval at which the relay wants its processes to poll without it, in seconds.
    """

    def __init__(
        self,
        session_id: str,
        rhythm: Rhythm,
        answer: float,
        *,
        said: Callable[[messages.FromRelay], None],
        missed: Callable[[int], None],
        lost: Callable[[], None],
    ) -> None:
        self.loss: CannotNotifyError | None = None
        self.term = 0
        self.rows = RowSet()
        self.polling = 0.0
        self._id = session_id
        self._rhythm = rhythm
        self._answer = answer
        self._said = said
        self._missed = missed
        self._on_loss = lost
        self._loop = asyncio.get_running_loop()
        self._freshness = Freshness(rhythm.fresh, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._sent = 0
        self._received = 0
        self._epoch: str | None = None
        self._answers: dict[int, asyncio.Future[messages.FromRelay]] = {}

    # -- the beginning and the end

    def begin(self, link: Link) -> None:
        """Begin the session, on this way to the relay."""
        self._link = link
        self._freshness = Freshness(self._rhythm.fresh, self._loop.time())
        self.send(messages.Hello())
        self._ping()

    def close(self) -> None:
        """End it silently. Nothing is received any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._end(CannotNotifyError(Reason.CONNECTION_LOST, "closed"))

    def lose(self, error: CannotNotifyError) -> None:
        """It is lost."""
        if self.loss is None:
            self._end(error)
            self._on_loss()

    def _end(self, error: CannotNotifyError) -> None:
        self.loss = self.loss or error
        for answer in self._answers.values():
            answer.cancel()

    def refuse_lost(self) -> None:
        """Refuse a session that is lost, or in which nothing can be relied on.

        Raises:
            CannotNotifyError: It is one of these.
        """
        if self.loss is None and not self._freshness.holds(self._loop.time()):
            why = "the event loop was blocked for too long to rely on what the relay has said"
            self.lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
        if self.loss is not None:
            raise CannotNotifyError(self.loss.reason, self.loss.detail)

    # -- what is sent

    def send(self, message: messages.FromProcess) -> int:
        """Send a message; return its number."""
        assert self._link is not None  # noqa: S101  # begin() has set it
        self._sent += 1
        request = envelopes.Request(session=self._id, number=self._sent, message=message)
        self._link.send(envelopes.encode(request))
        return self._sent

    async def ask(self, *asked: messages.FromProcess) -> list[messages.FromRelay]:
        """Send messages; return their answers.

        Raises:
            CannotNotifyError: The session is lost, an answer was missed, or the answers came too
                late to rely on them.
        """
        self.refuse_lost()
        for message in asked:  # a ping that is sent after the message counts its rows
            if isinstance(message, messages.Register):
                self.rows.add(map(messages.row_id, message.rows))
        waiting = {self.send(message): self._loop.create_future() for message in asked}
        self._answers.update(waiting)
        try:
            with anyio.move_on_after(self._answer):
                await asyncio.wait(waiting.values())
            self.refuse_lost()
            if not all(answer.done() for answer in waiting.values()):
                why = f"the relay did not answer within {self._answer:g}s"
                raise CannotNotifyError(Reason.CONNECTION_LOST, why)
            return [answer.result() for answer in waiting.values()]
        finally:
            for number in waiting:
                self._answers.pop(number, None)

    def _ping(self) -> None:
        """Ping, and find out whether an earlier ping was answered in time."""
        now = self._loop.time()
        if not self._freshness.holds(now):
            why = f"the relay has answered no ping of the last {self._rhythm.fresh:g}s"
            self.lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
        if self.loss is not None:
            return
        number = self._freshness.ping(now)
        self.send(messages.Ping(number, len(self.rows), self.rows.checksum))
        due = min(now + self._rhythm.ping, self._freshness.until)
        self._timer = self._loop.call_at(due, self._ping)

    # -- what is received

    def receive(self, data: bytes) -> None:
        """Process a message. The transport calls this, in the order of arrival."""
        if self.loss is not None:
            return
        try:
            answer = envelopes.decode_answer(data)
        except envelopes.UnreadableError as error:
            self.lose(CannotNotifyError(Reason.RELAY_OUTDATED, str(error)))
            return
        message = answer.message
        if isinstance(message, messages.Ended) and answer.number == 0:
            # A former leader that was stopped does not know sessions that began meanwhile.
            if answer.term >= self.term:
                self._ended(message)
        elif self._is_next(answer):
            self._take_in(message)

    def _is_next(self, answer: envelopes.Answer) -> bool:
        """Whether a message continues the sequence. If messages were lost, that is reported."""
        if self._epoch is None and isinstance(answer.message, messages.Welcome):
            self._epoch, self.term = answer.epoch, answer.term
        if answer.epoch != self._epoch or answer.number <= self._received:
            return False
        lost = answer.number - self._received - 1
        self._received = answer.number
        if lost and self._answers:
            why = f"{lost} messages of the relay were lost, perhaps an answer"
            self.lose(CannotNotifyError(Reason.CONNECTION_LOST, why))
        elif lost:
            self._missed(lost)
        return self.loss is None

    def _take_in(self, message: messages.FromRelay) -> None:
        match message:
            case messages.Pong(number, polling):
                self.polling = min(polling, _SELDOM)
                self._freshness.answered(number)
            case messages.Registered(to) | messages.Boundary(to) | messages.WithoutWriters(to):
                self._said(message)
                answer = self._answers.get(to)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case messages.Ended():
                self._ended(message)
            case _:
                self._said(message)

    def _ended(self, message: messages.Ended) -> None:
        known = {reason.value for reason in Reason}
        reason = Reason(message.reason) if message.reason in known else Reason.CONNECTION_LOST
        self.lose(CannotNotifyError(reason, message.detail))
