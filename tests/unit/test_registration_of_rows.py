"""Which rows are registered, for which watches and with which columns."""

from __future__ import annotations

import asyncio

from rowbell._watch.board.registrations import Committed, Registration, Registrations
from rowbell._watch.values.key_hash import RowId
from support.boards import TABLE, a_watch

ROW = RowId(TABLE, 7)


async def test_what_is_registered_never_narrows() -> None:
    """Another watch may rely on the columns that are registered now."""
    watch = a_watch(7, asyncio.get_running_loop())
    registration = Registration(ROW, {watch: frozenset({"b"})})
    assert registration.wanted == frozenset({"b"})
    assert not registration.covers(watch)
    registration.committed = Committed(frozenset({"a"}), 1)
    assert registration.wanted == frozenset({"a", "b"})
    assert not registration.covers(watch)
    registration.committed = Committed(frozenset({"a", "b"}), 1)
    assert registration.covers(watch)


async def test_a_registration_of_all_columns_stays_one() -> None:
    watch = a_watch(7, asyncio.get_running_loop())
    registration = Registration(ROW, {watch: frozenset({"b"})}, Committed(None, 1))
    assert registration.wanted is None
    assert registration.covers(watch)


async def test_two_watches_of_a_row_share_its_registration() -> None:
    registrations, loop = Registrations(), asyncio.get_running_loop()
    one, two = a_watch(7, loop), a_watch(7, loop)
    one.row_ids = two.row_ids = (ROW,)
    [registration] = registrations.join(one)
    registration.committed = Committed(None, 1)
    assert registrations.join(two) == []
    assert registrations.watches_of(TABLE, [7, 8]) == [one, two]
    registrations.leave(one, 5.0)
    assert registrations.take_unused(before=9.0) == []
    registrations.leave(two, 6.0)
    assert registrations.take_unused(before=5.0) == []
    assert registrations.take_unused(before=6.0) == [ROW]


async def test_a_row_that_no_watch_needs_any_more_is_not_registered() -> None:
    registrations = Registrations()
    watch = a_watch(7, asyncio.get_running_loop())
    watch.row_ids = (ROW,)
    for registration in registrations.join(watch):
        registrations.want(registration)
    registrations.leave(watch, 5.0)
    assert registrations.take_wanted() == []
