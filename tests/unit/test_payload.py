"""Payloads of notifications, and notifications that arrive together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.notifiers.notification import Merged, Notification
from rowbell._watch.notifiers.payload import Announcement, decode


@given(st.text())
def test_no_payload_is_too_strange_to_decode(payload: str) -> None:
    found = decode(payload)
    table_oid = found.table_oid if isinstance(found, Notification) else None
    assert table_oid is None or payload.startswith(f"1:{table_oid}")


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_payload_says_table_and_keys(table_oid: int, keys: list[int]) -> None:
    payload = f"1:{table_oid}:{','.join(map(str, keys))}"
    assert decode(payload) == Notification(table_oid, tuple(keys))


@pytest.mark.fault("B46")
def test_payloads_of_another_version_mean_everything() -> None:
    """So processes with two versions of rowbell can run at the same time."""
    assert decode("2:16400:whatever") == Notification(None, None)
    assert decode("1:16400:*") == Notification(16400, None)
    assert decode("1:16400:whatever") is None


def test_notifications_that_come_together_are_looked_at_once() -> None:
    """Ten thousand notifications for one table and row have the same effect as one."""
    heard = Merged()
    assert not heard
    for i in range(10_000):
        heard.add(Notification(7, (i % 3, 1)))
    assert heard.keys == {7: {0, 1, 2}}
    heard.add(Notification(7, None))
    heard.add(Notification(7, (5,)))
    heard.add(Notification(8, (5,)))
    assert heard.keys == {7: None, 8: {5}}
    heard.add(Notification(None, None))
    assert heard.everything


def test_a_question_mark_says_that_the_triggers_of_a_table_have_changed() -> None:
    assert decode("1:16400:?") is Announcement.TRIGGERS_CHANGED


@pytest.mark.parametrize(
    "payload",
    [
        *("", "1", "1:", "1:1:", "1:1:,", "1:1:1,", "1:1:1,,2", "1:1: 1", "1:1:1 ", "1:1:+1"),
        *("1:1:--1", "1:-1:1", "1:x:1", "1:1:**", "1:1:1:1", "1:٣:1", "1:1:٣"),
        *("1:12345678901:1", "1:1:12345678901234567890", "one:1:1", "2", "2:1", "12345:1:x"),
    ],
)
def test_what_is_no_payload_of_any_version_is_ignored(payload: str) -> None:
    """Any role may use NOTIFY."""
    assert decode(payload) is None


def test_nothing_heard_is_false_and_anything_heard_is_true() -> None:
    assert not Merged()
    for notification in (Notification(7, (1,)), Notification(7, None), Notification(None, None)):
        heard = Merged()
        heard.add(notification)
        assert heard
