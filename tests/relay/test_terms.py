"""Which relay a process believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import Timing
from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell._watch.wire import envelopes, messages
from rowbell._watch.wire.rhythm import Rhythm
from rowbell._watch.wire.transport import LinkError
from support.relays import Notes


class Played:
    """A relay that answers as the leader of some term, and says that it has the ticket."""

    def __init__(self) -> None:
        self.term = 1
        self._session = ""
        self._receive: Callable[[bytes], None] = lambda _: None

    @asynccontextmanager
    async def link(
        self, session: str, received: Callable[[bytes], None], lost: Callable[[LinkError], None]
    ) -> AsyncGenerator[Any]:
        self._session, self._receive = session, received
        yield self

    def send(self, data: bytes) -> None:
        """A message of the process."""
        if isinstance(envelopes.decode_request(data).message, messages.Hello):
            loop = asyncio.get_running_loop()
            for number, message in (
                (1, messages.Welcome("rowbell_relay_" + "0" * 32)),
                (2, messages.Admitted(1.0)),
            ):
                loop.call_soon(self._say, number, message)

    def _say(self, number: int, message: messages.FromRelay) -> None:
        answer = envelopes.Answer(
            session=self._session, term=self.term, epoch="e", number=number, message=message
        )
        self._receive(envelopes.encode(answer))


async def test_a_former_leader_is_refused_until_the_latest_was_silent_for_a_while(
    orders: AsyncEngine,
) -> None:
    """Then it is believed: a database that was restored begins with a low number again."""
    relay = Played()
    rhythm = Rhythm(fresh=0.5)
    notifier = RelayedNotifier(relay, Connections(orders), Timing(), rhythm)

    async def begun(term: int) -> None:
        relay.term = term
        async with notifier.session(Notes()) as session:
            assert session.conversation.term == term

    await begun(7)
    await begun(8)
    with pytest.raises(CannotNotifyError, match="term 7 answered, and term 8 has begun"):
        await begun(7)
    with pytest.raises(CannotNotifyError, match="term 8 has begun"):
        await begun(1)
    await asyncio.sleep(rhythm.fresh)
    await begun(1)
    await begun(2)
