"""What a relay makes of the messages of processes, whoever sends them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell import Reason
from rowbell._watch.wire import envelopes, messages
from rowbell._watch.wire.rhythm import Rhythm
from rowbell.relay.desk import Desk
from rowbell.relay.outgoing import Outgoing
from rowbell.relay.role_listener import RoleListener
from rowbell.relay.session import Session


@dataclass(eq=False)
class Process:
    """A process: a peer, which notes what it is sent."""

    received: list[envelopes.Answer] = field(default_factory=list[envelopes.Answer])

    is_busy = False

    def send(self, data: bytes) -> None:
        self.received.append(envelopes.decode_answer(data))

    @property
    def last(self) -> Any:
        return self.received[-1].message


class Ground:
    """A desk, a clock, and one role."""

    def __init__(self) -> None:
        self.now = 0.0
        calls: Any = None
        self.listener = RoleListener(1, calls, 1, lambda: self.now)
        self.outgoing = Outgoing(4, "epoch", lasts=1.5, clock=lambda: self.now, held=lambda: None)
        self.desk = Desk(
            "channel",
            {1: self.listener},
            self.outgoing,
            reads_per_second=2.0,
            rhythm=Rhythm(),
            clock=lambda: self.now,
            wake=lambda: None,
        )

    def say(self, who: Process, session: str, number: int, message: messages.FromProcess) -> None:
        request = envelopes.Request(session=session, number=number, message=message)
        self.desk.receive(who, envelopes.encode(request))

    def admitted(self, session: str = "one") -> tuple[Process, Session]:
        """A process that has introduced itself."""
        process = Process()
        self.say(process, session, 1, messages.Hello())
        found = self.desk.sessions.find(session)
        assert found is not None
        self.desk.sessions.admit(found, 1)
        return process, found


OPTIONS = '{"version":1,"key":{"id":null},"columns":null}'
TABLE = messages.Table(5, OPTIONS, ["id", "n"])


def register(*rows: tuple[int, int, int]) -> messages.Register:
    return messages.Register([TABLE], [["n"], None], list(rows))


def ended(process: Process) -> str:
    assert isinstance(process.last, messages.Ended)
    assert process.received[-1].number == 0
    return process.last.detail


def test_a_session_begins_with_a_hello_and_its_messages_are_numbered() -> None:
    ground = Ground()
    process, _ = ground.admitted()
    ground.say(process, "one", 2, messages.Ping(1, 0, 0))
    assert process.received[0].message == messages.Welcome("channel")
    assert process.last == messages.Pong(1, 0.5)
    assert [answer.number for answer in process.received] == [1, 2]
    assert {(answer.term, answer.epoch) for answer in process.received} == {(4, "epoch")}


def test_a_ping_is_told_how_seldom_to_poll_if_the_relay_is_lost() -> None:
    ground = Ground()
    process, *_ = [ground.admitted(f"session {number}")[0] for number in range(20)]
    ground.say(process, "session 0", 2, messages.Ping(1, 0, 0))
    assert process.last == messages.Pong(1, 10.0)  # 20 processes, 2 reads a second


def test_an_unknown_session_is_told_so_and_nothing_is_remembered_of_it() -> None:
    """A relay that adopted it would believe that its process is armed, and send it nothing."""
    ground, process = Ground(), Process()
    ground.say(process, "one", 7, messages.Ping(3, 0, 0))
    assert "does not know" in ended(process)
    assert len(ground.desk.sessions) == 0


def test_a_relay_that_may_lead_no_longer_refuses_nobody() -> None:
    """Another one may know the session."""
    ground, process = Ground(), Process()
    ground.now = 1.6
    ground.say(process, "one", 7, messages.Ping(3, 0, 0))
    assert not process.received
    ground.outgoing.confirmed(asked=1.5)
    ground.say(process, "one", 8, messages.Ping(4, 0, 0))
    assert "does not know" in ended(process)


def test_a_process_that_does_not_ping_is_forgotten_for_good() -> None:
    ground = Ground()
    process, session = ground.admitted()
    ground.say(process, "one", 2, register((5, 1, 0)))
    ground.now = 10.1
    ground.desk.forget_silent()
    assert "no ping" in ended(process)
    assert not ground.listener.sessions
    ground.outgoing.confirmed(ground.now)
    ground.say(process, "one", 3, messages.Ping(1, 1, session.row_set.checksum))
    assert "does not know" in ended(process)


def test_a_request_that_was_lost_ends_the_session() -> None:
    ground = Ground()
    process, _ = ground.admitted()
    ground.say(process, "one", 3, messages.Unregister([]))
    assert "was lost" in ended(process)


def test_a_request_that_comes_twice_is_processed_once() -> None:
    ground = Ground()
    process, _ = ground.admitted()
    for _ in range(2):
        ground.say(process, "one", 2, register((5, 1, 0)))
    assert len(ground.desk.take_work().registers[1]) == 1


def test_a_process_that_relies_on_other_rows_than_the_relay_knows_is_ended() -> None:
    ground = Ground()
    process, session = ground.admitted()
    ground.say(process, "one", 2, register((5, 1, 0)))
    ground.say(process, "one", 3, messages.Ping(1, 1, session.row_set.checksum))
    assert isinstance(process.last, messages.Pong)
    ground.say(process, "one", 4, messages.Ping(2, 2, session.row_set.checksum))
    assert "do not agree" in ended(process)


def test_nobody_can_speak_for_a_session_or_end_it_from_another_place() -> None:
    ground, stranger = Ground(), Process()
    _, session = ground.admitted()
    for number, message in ((2, messages.Leave()), (1, messages.Hello()), (9, messages.Leave())):
        ground.say(stranger, "one", number, message)
        assert "does not know" in ended(stranger)
    future = b'{"version":99,"session":"one","more":1}'
    ground.desk.receive(stranger, future)
    assert stranger.last.reason == Reason.RELAY_OUTDATED
    ground.desk.gone(stranger)
    assert session in ground.desk.sessions


def test_nothing_is_registered_before_the_introduction() -> None:
    ground, process = Ground(), Process()
    ground.say(process, "one", 1, messages.Hello())
    ground.say(process, "one", 2, register((5, 1, 0)))
    assert "before the introduction" in ended(process)


@pytest.mark.parametrize(
    "message",
    [
        messages.Register([], [["n"]], [(5, 1, 0)]),
        messages.Register([TABLE], [["other"]], [(5, 1, 0)]),
        register((5, 1, 2)),
        register((6, 1, 0)),
    ],
)
def test_a_row_is_refused_without_its_table_and_columns(message: messages.Register) -> None:
    """Its columns would be registered without the rights on them having been looked at."""
    ground = Ground()
    process, _ = ground.admitted()
    ground.say(process, "one", 2, message)
    assert "and not its table" in ended(process)
    assert not ground.desk.take_work().registers[1]


def raw(number: int, **message: Any) -> bytes:
    request = {"version": 1, "session": "one", "number": number, "message": message}
    return json.dumps(request).encode()


OTHER_OPTIONS = [
    "x",
    "{}",
    "[]",
    OPTIONS.replace('"id"', '"\\u0000"'),
    OPTIONS.replace('"id"', '"\\ud800"'),
    OPTIONS.replace("1", "1e400000", 1),
    OPTIONS.replace("null}", 'null,"more":{}}'),
]


@pytest.mark.parametrize(
    ("tables", "columns", "rows"),
    [
        *(([[5, options, ["n"]]], [["n"]], [[5, 1, 0]]) for options in OTHER_OPTIONS),
        ([[2**32, OPTIONS, ["n"]]], [["n"]], [[2**32, 1, 0]]),
        ([[5, OPTIONS, ["n"]]], [["n"]], [[5, 2**63, 0]]),
        ([[5, OPTIONS, ["n"]]], [["n"]], [[5, -(10**30), 0]]),
        ([[5, OPTIONS, ["n"]]], [["n"]], [[5, 1, -1]]),
        ([[5, OPTIONS, ["n\0"]]], [["n\0"]], [[5, 1, 0]]),
        ([[5, OPTIONS, ["x" * 300]]], [["n"]], [[5, 1, 0]]),
    ],
)
def test_what_the_database_would_not_take_is_not_passed_on(
    tables: Any, columns: Any, rows: Any
) -> None:
    """One such value would make the statement fail that all processes share."""
    ground = Ground()
    process, _ = ground.admitted()
    asked = {"is": "register", "tables": tables, "columns": columns, "rows": rows}
    ground.desk.receive(process, raw(2, **asked))
    assert "cannot be read" in ended(process)
    assert not ground.desk.take_work().registers[1]


def test_a_process_cannot_hide_columns_that_it_has_asked_for() -> None:
    """The rights on them would not be looked at any more, and others share the row."""
    ground = Ground()
    process, _ = ground.admitted()
    ground.say(process, "one", 2, register((5, 1, 0)))
    fewer = messages.Table(5, OPTIONS, ["id"])
    ground.say(process, "one", 3, messages.Register([fewer], [["id"]], [(5, 2, 0)]))
    assert "and not its table" in ended(process)


def test_a_place_has_one_session() -> None:
    """Whoever may connect cannot fill the relay's memory with sessions."""
    ground = Ground()
    process, _ = ground.admitted("one")
    for number in range(3):
        ground.say(process, f"another {number}", 1, messages.Hello())
        assert "does not know" in ended(process)
    assert len(ground.desk.sessions) == 1


def test_a_process_that_pings_and_does_not_introduce_itself_is_ended() -> None:
    ground, process = Ground(), Process()
    ground.say(process, "one", 1, messages.Hello())
    ground.now = 10.1
    ground.say(process, "one", 2, messages.Ping(1, 0, 0))
    ground.desk.forget_silent()
    assert "no ticket" in ended(process)


def test_a_ticket_is_for_one_session_and_other_payloads_are_ignored() -> None:
    ground, process = Ground(), Process()
    ground.say(process, "one", 1, messages.Hello())
    session = ground.desk.sessions.find("one")
    assert session is not None
    code = "0" * 64
    for payload in ("", "1:2:3", f"1:2:{session.public}", f"1:2:{code}:{code}"):
        ground.desk.on_ticket(payload)
    ticket = f"10:99:{session.public}:{code}"
    ground.desk.on_ticket(ticket)
    assert ground.desk.take_work().tickets == {ticket: session}
    ground.desk.sessions.admit(session, 1)
    ground.desk.on_ticket(ticket)
    assert not ground.desk.take_work().tickets


def test_a_flood_of_tickets_is_looked_at_in_parts() -> None:
    ground, process = Ground(), Process()
    ground.say(process, "one", 1, messages.Hello())
    session = ground.desk.sessions.find("one")
    assert session is not None
    for number in range(5_000):
        ground.desk.on_ticket(f"10:{number}:{session.public}:{'0' * 64}")
    assert len(ground.desk.take_work().tickets) <= 500


@given(st.binary(max_size=50) | st.from_type(dict[str, int]).map(msgspec.json.encode))
def test_no_message_of_a_stranger_raises(data: bytes) -> None:
    ground = Ground()
    ground.desk.receive(Process(), data)
    assert len(ground.desk.sessions) == 0


def test_a_row_that_two_processes_need_stays_until_both_have_left() -> None:
    ground = Ground()
    (first, one), (second, two) = ground.admitted("one"), ground.admitted("two")
    ground.say(first, "one", 2, register((5, 1, 0)))
    ground.say(second, "two", 2, register((5, 1, 0), (5, 2, 1)))
    assert ground.listener.concerned(5, [1, 2, 3]) == {one: [1], two: [1, 2]}
    ground.desk.gone(first)
    assert ground.listener.concerned(5, [1]) == {two: [1]}
    ground.say(second, "two", 3, messages.Unregister([(5, 1), (5, 2)]))
    assert not ground.listener.sessions


def test_a_relay_that_was_stopped_says_nothing_before_the_server_has_answered_it() -> None:
    """Another one may lead by then. What it had to say keeps its order."""
    ground = Ground()
    process, session = ground.admitted()
    ground.now = 1.6
    for key in (1, 2):
        ground.outgoing.send(session, messages.Changed(5, [key]))
    ground.outgoing.confirmed(asked=0.05)  # an old query's answer shows nothing
    assert len(process.received) == 1
    assert ground.outgoing.depth == 2
    ground.outgoing.confirmed(asked=1.5)
    assert [answer.number for answer in process.received] == [1, 2, 3]
    assert process.last == messages.Changed(5, [2])
