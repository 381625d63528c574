"""The state of a watcher: each transition is logged once, and the callbacks are called."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import Reason, WatcherState
from rowbell._watch.reasons import REMEDIES, explain
from rowbell._watch.state import StateLog, warn_once

TRANSITIONS = st.lists(
    st.tuples(st.sampled_from(WatcherState), st.none() | st.sampled_from(Reason)), max_size=20
)


class Log(StateLog):
    """A state log that counts its transitions.

    Args:
        engine: The engine; by default one that never connects.
    """

    def __init__(self, engine: AsyncEngine | None = None) -> None:
        self.changes = 0
        super().__init__(engine or nowhere(), self._count)

    def _count(self) -> None:
        self.changes += 1


def nowhere() -> AsyncEngine:
    return create_async_engine("postgresql+asyncpg://nobody@nowhere/shop")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@given(TRANSITIONS)
def test_any_transition_is_accepted_until_the_state_is_closed(
    transitions: list[tuple[WatcherState, Reason | None]],
) -> None:
    log = Log()
    expected: tuple[WatcherState, Reason | None] = (WatcherState.IDLE, None)
    changes = 0
    for state, reason in transitions:
        log.enter(state, reason)
        if expected[0] is not WatcherState.CLOSED and (state, reason) != expected:
            expected, changes = (state, reason), changes + 1
        assert ((log.state, log.reason), log.changes) == (expected, changes)


def test_a_closed_state_keeps_its_reason_and_detail() -> None:
    log = Log()
    log.enter(WatcherState.CLOSED, None, "by its user")
    log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST, "gone")
    assert (log.state, log.reason, log.detail) == (WatcherState.CLOSED, None, "by its user")


def test_the_time_of_a_state_is_that_of_its_beginning() -> None:
    log = Log()
    log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST)
    since = log.since
    log.enter(WatcherState.POLLING, Reason.IN_RECOVERY)
    assert (log.since, log.changes) == (since, 2)
    log.enter(WatcherState.LISTENING)
    assert log.since > since


def test_another_detail_of_the_same_state_is_no_transition() -> None:
    log = Log()
    log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST, "refused")
    log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST, "timed out")
    assert log.changes == 1
    assert log.detail == "timed out; it is retried automatically"


def test_each_return_to_listening_is_a_reconnect_and_the_first_time_is_none() -> None:
    log = Log()
    log.enter(WatcherState.CONNECTING)
    log.enter(WatcherState.LISTENING)
    assert log.reconnects == 0
    for number in (1, 2):
        log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST)
        log.enter(WatcherState.POLLING, Reason.NOT_DELIVERED)
        log.enter(WatcherState.LISTENING)
        log.enter(WatcherState.LISTENING)
        assert log.reconnects == number


def test_a_reason_is_warned_of_once_for_an_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Even if each wait opens its own watcher."""
    engine = nowhere()
    for log in (Log(engine), Log(engine)):
        log.enter(WatcherState.POLLING, Reason.NOT_INSTALLED, "no schema rowbell")
    [warning] = warnings(caplog)
    assert "[shop] polls (not_installed): no schema rowbell; run install_triggers()" in warning
    Log().enter(WatcherState.POLLING, Reason.NOT_INSTALLED, "no schema rowbell")
    assert len(warnings(caplog)) == 2


def test_what_was_mended_is_warned_of_again_if_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This is about the connection. Warnings about a table are logged only once."""
    log = Log()
    for _ in range(2):
        log.enter(WatcherState.POLLING, Reason.CONNECTION_LOST, "gone")
        log.enter(WatcherState.LISTENING)
        log.warn(Reason.TRIGGER_MISSING, "table orders")  # noqa: G010  # no logger
    assert [line.split("(")[1].split(")")[0] for line in warnings(caplog)] == [
        "connection_lost",
        "trigger_missing",
        "connection_lost",
    ]


def test_polling_that_was_asked_for_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rowbell")
    log = Log()
    log.enter(WatcherState.POLLING, Reason.REQUESTED)
    log.enter(WatcherState.CLOSED)
    assert warnings(caplog) == []
    assert [r.getMessage() for r in caplog.records] == [
        "rowbell [shop]: polling",
        "rowbell [shop]: closed",
    ]


def test_a_reason_outside_of_any_watcher_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = nowhere()
    for _ in range(2):
        warn_once(engine.sync_engine, Reason.OWN_CONNECTION, "table orders")
    [warning] = warnings(caplog)
    assert warning.startswith("rowbell [shop] polls (own_connection): table orders")


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.REQUESTED])
def test_each_reason_has_a_remedy(reason: Reason) -> None:
    assert explain(reason, "seen") == f"seen; {REMEDIES[reason]}"


def test_polling_that_was_asked_for_needs_no_remedy() -> None:
    assert explain(Reason.REQUESTED, "seen") == "seen"
