"""What a relay passes on to processes that cannot be told of every change."""

from __future__ import annotations

import asyncio
from typing import Any

from rowbell._watch.wire import messages
from rowbell.relay.fan_out import FanOut

TABLE = 16384


class Sent:
    """What is sent, to whom; it stands for the outgoing messages."""

    def __init__(self) -> None:
        self.is_busy = False
        self.messages: list[tuple[str, messages.Changed]] = []
        self.arrived = asyncio.Event()

    def send(self, session: Any, message: messages.Changed) -> None:
        self.messages.append((session.name, message))
        self.arrived.set()

    async def next(self) -> tuple[str, messages.Changed]:
        while not self.messages:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 5)
        return self.messages.pop(0)


class Session:
    """A process that needs all rows, and the way to it."""

    def __init__(self, name: str, *, is_busy: bool) -> None:
        self.name = name
        self.is_busy = is_busy
        self.peer = self


class Listener:
    """All processes are concerned by everything."""

    def __init__(self, *sessions: Session) -> None:
        self._sessions = sessions

    def concerned(self, _oid: int | None, keys: tuple[int, ...] | None) -> dict[Session, Any]:
        return {one: None if keys is None else list(keys) for one in self._sessions}


def a_fan_out(*sessions: Session) -> tuple[FanOut, Sent, list[Any], Any]:
    sent: Any = Sent()
    there: Any = set(sessions)
    return FanOut(sent, there, lambda: None), sent, [Listener(*sessions)], there


async def test_what_changes_while_much_is_on_its_way_is_one_message() -> None:
    """Otherwise a row that changes all the time would fill queues, and end all sessions."""
    slow, quick = Session("slow", is_busy=True), Session("quick", is_busy=False)
    fan_out, sent, listeners, _ = a_fan_out(slow, quick)
    for key in (1, 2, 1, 3):
        fan_out.notified(listeners, f"1:{TABLE}:{key}")
        assert await sent.next() == ("quick", messages.Changed(TABLE, [key]))
    slow.is_busy = False
    name, message = await sent.next()
    assert (name, sorted(message.keys or [])) == ("slow", [1, 2, 3])
    fan_out.notified(listeners, f"1:{TABLE}:4")
    assert {(await sent.next())[0] for _ in range(2)} == {"slow", "quick"}


async def test_nobody_overtakes_what_is_held() -> None:
    """A process that is not busy any more gets first what it has not heard."""
    slow = Session("slow", is_busy=True)
    fan_out, sent, listeners, _ = a_fan_out(slow)
    fan_out.notified(listeners, f"1:{TABLE}:1")
    await asyncio.sleep(0)
    slow.is_busy = False
    fan_out.notified(listeners, f"1:{TABLE}:2")
    _, message = await sent.next()
    assert sorted(message.keys or []) == [1, 2]


async def test_a_term_that_is_over_passes_nothing_on() -> None:
    slow = Session("slow", is_busy=True)
    fan_out, sent, listeners, _ = a_fan_out(slow)
    fan_out.notified(listeners, f"1:{TABLE}:1")
    await asyncio.sleep(0)
    fan_out.close()
    slow.is_busy = False
    await asyncio.sleep(0.05)
    assert not sent.messages


async def test_a_process_to_which_much_is_always_on_its_way_is_told_after_a_second() -> None:
    """Its pings are answered, so it relies on what it was told, and on being told of changes."""
    slow = Session("slow", is_busy=True)
    fan_out, sent, listeners, _ = a_fan_out(slow)
    fan_out.notified(listeners, f"1:{TABLE}:1")
    assert await sent.next() == ("slow", messages.Changed(TABLE, [1]))
    fan_out.close()


async def test_what_a_relay_may_not_send_yet_is_merged_too() -> None:
    process = Session("process", is_busy=False)
    fan_out, sent, listeners, _ = a_fan_out(process)
    sent.is_busy = True
    for key in (1, 2):
        fan_out.notified(listeners, f"1:{TABLE}:{key}")
        await asyncio.sleep(0)
    sent.is_busy = False
    _, message = await sent.next()
    assert sorted(message.keys or []) == [1, 2]


async def test_nothing_is_kept_of_a_session_that_has_ended() -> None:
    slow = Session("slow", is_busy=True)
    fan_out, sent, listeners, there = a_fan_out(slow)
    fan_out.notified(listeners, f"1:{TABLE}:1")
    await asyncio.sleep(0)
    there.clear()
    async with asyncio.timeout(5):
        while fan_out._timer is not None:
            await asyncio.sleep(0.01)
    assert not sent.messages
