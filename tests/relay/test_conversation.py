"""What a process makes of the messages of its relay, in any order in which they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rowbell import Reason, Timing
from rowbell._watch.database.tables import WatchedTable
from rowbell._watch.notifiers.contract import CannotNotifyError, Gap
from rowbell._watch.notifiers.relayed_session import RelayedSession
from rowbell._watch.values.key_hash import RowId
from rowbell._watch.wire import envelopes, messages
from rowbell._watch.wire.rhythm import Freshness, Rhythm
from support.relays import Notes

OPTIONS = b'{"version":1,"key":{"id":null},"columns":null}'
TABLES: dict[int, Any] = {1: (WatchedTable("orders", None, OPTIONS), None)}
ROW = RowId(1, 7)


class NoNames:
    """A process that finds nothing wrong with its tables."""

    async def look(self, tables: object, *, only_new: bool = False) -> tuple[Any, tuple[int, ...]]:
        return {}, ()


class Played:
    """A relay that says what the test wants, and the session of a process."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.notes = Notes()
        self.sent: list[messages.FromProcess] = []
        names: Any = NoNames()
        self.session = RelayedSession("secret", self.notes, names, Timing(answer=2.0), rhythm)
        self.number = 0

    def send(self, data: bytes) -> None:
        """The link: a message of the process."""
        self.sent.append(envelopes.decode_request(data).message)

    def say(self, message: messages.FromRelay, number: int | None = None, **more: Any) -> None:
        """Say a message to the process."""
        if number is None:
            self.number += 1
        answer = envelopes.Answer(
            session="public",
            term=more.get("term", 2),
            epoch=more.get("epoch", "e"),
            number=self.number if number is None else number,
            message=message,
        )
        self.session.conversation.receive(envelopes.encode(answer))

    async def asked(self) -> int:
        """The number of the process's latest request, after all tasks had their turn."""
        for _ in range(5):
            await asyncio.sleep(0)
        return len(self.sent)


@pytest.fixture
async def relay() -> AsyncIterator[Played]:
    played = Played(Rhythm(ping=100.0, fresh=300.0))

    async def introduce(channel: str) -> None:
        played.say(messages.Admitted(1.0))

    async with asyncio.TaskGroup() as tasks:
        begun = tasks.create_task(played.session.begin(played, introduce))
        await played.asked()
        played.say(messages.Welcome("channel"))
        await begun
    yield played
    played.session.conversation.close()


async def registering(relay: Played) -> tuple[asyncio.Task[Any], int]:
    task = asyncio.create_task(relay.session.register([(ROW, None)], TABLES))
    return task, await relay.asked()


async def test_an_answer_and_a_gap_in_one_turn_of_the_event_loop_keep_their_order(
    relay: Played,
) -> None:
    """Otherwise the gap would find nothing registered, and the answer would be believed."""
    task, number = await registering(relay)
    relay.say(messages.Missed(5, "before"))
    relay.say(messages.Registered(number, [], 10))
    relay.say(messages.Missed(20, "after"))
    registered = await task
    assert registered.report.gaps == [Gap(5, "before")]
    assert registered.boundary == 10
    assert (await relay.session.check(TABLES)).gaps == [Gap(20, "after")]
    assert not (await relay.session.check(TABLES)).gaps


async def test_a_table_that_can_notify_again_is_not_taken_for_registered(relay: Played) -> None:
    """The answer was given while it could not. Both arrive in one turn of the event loop."""
    task, number = await registering(relay)
    relay.say(messages.Registered(number, [messages.Refused(1, "trigger_missing", "t")], 10))
    relay.say(messages.CannotNotify([]))
    assert (await task).report.obstacles.keys() == {1}
    assert not (await relay.session.check(TABLES)).obstacles


async def test_a_table_that_could_not_notify_for_a_moment_is_reported_once(relay: Played) -> None:
    """Its rows may have been registered without the columns of this process meanwhile."""
    relay.say(messages.CannotNotify([messages.Refused(1, "not_permitted", "t")]))
    relay.say(messages.CannotNotify([]))
    relay.notes.gap.clear()
    assert (await relay.session.check(TABLES)).obstacles.keys() == {1}
    assert relay.notes.gap.is_set()  # so the next check comes soon
    assert not (await relay.session.check(TABLES)).obstacles


async def test_a_table_that_could_not_notify_before_an_answer_is_reported_with_it(
    relay: Played,
) -> None:
    task, number = await registering(relay)
    relay.say(messages.CannotNotify([messages.Refused(1, "not_permitted", "t")]))
    relay.say(messages.Registered(number, [], 10))
    assert (await task).report.obstacles.keys() == {1}
    assert not (await relay.session.check(TABLES)).obstacles


async def test_a_hole_is_a_gap_with_a_boundary_that_was_taken_after_it(relay: Played) -> None:
    relay.say(messages.Changed(1, [7]), number=relay.number + 3)
    assert relay.notes.gap.is_set()
    task = asyncio.create_task(relay.session.check(TABLES))
    number = await relay.asked()
    assert relay.sent[-1] == messages.TakeBoundary()
    relay.say(messages.Boundary(number, 30), number=relay.number + 4)
    assert (await task).gaps == [Gap(30, "2 messages of the relay were lost")]


async def test_a_message_that_comes_late_fills_no_hole(relay: Played) -> None:
    relay.say(messages.Changed(1, [7]), number=relay.number + 2)
    relay.say(messages.Changed(1, [8]), number=relay.number + 1)
    assert [one.keys for one in relay.notes.taken()] == [(7,)]
    task = asyncio.create_task(relay.session.check(TABLES))
    number = await relay.asked()
    relay.say(messages.Boundary(number, 30), number=relay.number + 3)
    assert (await task).gaps == [Gap(30, "1 messages of the relay were lost")]


async def test_a_hole_while_an_answer_is_due_ends_the_session(relay: Played) -> None:
    task, number = await registering(relay)
    relay.say(messages.Registered(number, [], 10), number=relay.number + 2)
    with pytest.raises(CannotNotifyError, match="perhaps an answer"):
        await task
    assert relay.session.loss is not None


async def test_messages_of_another_epoch_are_ignored(relay: Played) -> None:
    relay.say(messages.Changed(1, [7]), epoch="former")
    assert not relay.notes.taken()
    assert relay.session.loss is None


async def test_a_former_leader_that_goes_on_ends_no_session_of_the_present_one(
    relay: Played,
) -> None:
    """It was stopped, so it does not know the sessions that began meanwhile. A later one does."""
    unknown = messages.Ended("connection_lost", "the relay does not know this session")
    relay.say(unknown, number=0, term=1, epoch="former")
    assert relay.session.loss is None
    relay.say(unknown, number=0, term=3, epoch="next")
    assert relay.session.loss is not None


async def test_an_answer_that_does_not_come_ends_the_session() -> None:
    played = Played(Rhythm(ping=100.0, fresh=300.0))
    with pytest.raises(CannotNotifyError, match="did not answer"):
        await played.session.begin(played, NoNames().look)  # type: ignore[arg-type]
    played.session.conversation.close()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version":9,"session":"x"}'])
async def test_a_relay_that_cannot_be_understood_is_outdated(relay: Played, data: bytes) -> None:
    relay.session.conversation.receive(data)
    assert relay.session.loss is not None
    assert relay.session.loss.reason is Reason.RELAY_OUTDATED


async def test_what_came_after_the_loss_is_not_received(relay: Played) -> None:
    relay.say(messages.Ended("connection_lost", "leaving"), number=0)
    relay.say(messages.Changed(1, [7]))
    assert not relay.notes.taken()
    with pytest.raises(CannotNotifyError, match="leaving"):
        await relay.session.register([(ROW, None)], TABLES)


async def test_pings_say_which_rows_the_process_relies_on(relay: Played) -> None:
    task, number = await registering(relay)
    relay.say(messages.Registered(number, [], 10))
    await task
    relay.session.conversation._ping()
    first, last = (one for one in relay.sent if isinstance(one, messages.Ping))
    assert (first.rows, last.rows) == (0, 1)
    assert last.checksum == relay.session.conversation.rows.checksum
    await relay.session.unregister([ROW])
    relay.session.conversation._ping()
    assert isinstance(again := relay.sent[-1], messages.Ping)
    assert (again.rows, again.checksum) == (0, 0)


async def test_an_answer_after_the_event_loop_was_blocked_is_refused() -> None:
    """A process that was stopped finds old answers, in the right order and without a hole."""
    played = Played(Rhythm(ping=100.0, fresh=0.3))

    async def introduce(channel: str) -> None:
        played.say(messages.Admitted(1.0))

    beginning = asyncio.create_task(played.session.begin(played, introduce))
    await played.asked()
    played.say(messages.Welcome("channel"))
    await beginning
    task, number = await registering(played)
    played.say(messages.Registered(number, [], 10))
    until = asyncio.get_running_loop().time() + 0.4
    while asyncio.get_running_loop().time() < until:
        pass
    with pytest.raises(CannotNotifyError, match=r"blocked for too long|answered no ping"):
        await task
    played.session.conversation.close()


def test_only_an_answer_to_a_recent_ping_shows_that_the_way_works() -> None:
    freshness = Freshness(3.0, 100.0)
    assert freshness.holds(102.9)
    assert not freshness.holds(103.0)
    first = freshness.ping(101.0)
    second = freshness.ping(102.0)
    freshness.answered(second)
    assert freshness.until == 105.0
    freshness.answered(first)  # late
    assert freshness.until == 105.0
    freshness.answered(99)  # never sent
    assert not freshness.holds(105.0)


def test_old_answers_that_all_come_at_once_do_not_make_it_fresh() -> None:
    """As after SIGCONT: 24 answers in a row, to pings that were sent before the stop."""
    freshness = Freshness(3.0, 0.0)
    pings = [freshness.ping(float(second)) for second in range(1, 25)]
    for ping in pings:
        freshness.answered(ping)
    assert not freshness.holds(36.0)
