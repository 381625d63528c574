"""The board, with a simulated clock and server: what arms a watch, and what must not."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from rowbell import ListenError, Reason
from rowbell._watch.board.observation import Reading
from rowbell._watch.board.phases import Armed, Polled, Proving, Registering
from rowbell._watch.board.schedule import NOW, Why
from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.values.key_hash import RowId
from support.boards import SERVER, TABLE, Rows, a_watch
from support.scene import ROW, Scene


@pytest.fixture
async def scene() -> Scene:
    """A row that is registered with boundary 11. The read that may prove it is due."""
    scene = Scene()
    scene.read("old", xmin=10)
    scene.register(boundary=11)
    return scene


@pytest.fixture
async def armed(scene: Scene) -> Scene:
    scene.read("old", xmin=20)
    assert scene.is_in(Armed)
    return scene


async def test_a_watch_goes_from_phase_to_phase() -> None:
    scene = Scene()
    assert scene.is_in(Registering)
    scene.read("old", xmin=10)
    assert scene.is_in(Registering)
    assert scene.watch.row_ids == (ROW,)
    scene.register(boundary=11)
    assert scene.is_in(Proving)
    scene.read("old", xmin=12)
    assert scene.is_in(Armed)
    scene.board.disconnected()
    assert scene.is_in(Polled)
    assert not scene.watch.row_ids


async def test_a_read_above_the_boundary_arms(scene: Scene) -> None:
    scene.read("old", xmin=11)
    assert scene.is_in(Proving)
    scene.now = scene.next_read.when
    scene.read("old", xmin=12)
    assert scene.is_in(Armed)


async def test_a_look_at_the_lock_table_arms_by_the_next_read(scene: Scene) -> None:
    assert scene.arming.proving() == ([TABLE], 11)
    scene.arming.writers_gone([TABLE], 11)
    assert scene.arming.proving() is None
    scene.read("old", xmin=5)
    assert scene.is_in(Armed)


async def test_a_read_from_before_a_gap_proves_nothing_after_it(scene: Scene) -> None:
    """Even if the lock table showed no old writers, both before and after the gap."""
    scene.arming.writers_gone([TABLE], 11)
    read = scene.begin()
    # A writer cannot notify, increments the counter, and commits after that read's snapshot.
    scene.arming.gap(13)
    scene.arming.writers_gone([TABLE], 13)
    scene.end(read, "old", xmin=5)
    assert not scene.is_in(Armed)
    scene.read("new", xmin=5)
    assert scene.watch.is_over


async def test_a_gap_is_proven_from_its_own_boundary(armed: Scene) -> None:
    armed.arming.gap(30)
    armed.read("old", xmin=30)
    assert armed.is_in(Proving)
    armed.now = armed.next_read.when
    armed.read("old", xmin=31)
    assert armed.is_in(Armed)


async def test_a_row_that_is_registered_again_is_proven_again(armed: Scene) -> None:
    """Its registration may have been missing for a time, so a writer may not have notified."""
    [registration] = armed.arming.registrations.all()
    armed.arming.registered([(registration, None)], 25)
    assert armed.is_in(Proving)
    armed.read("new", xmin=26)
    assert armed.watch.is_over


async def test_a_watch_that_a_read_has_armed_is_not_read_again_for_that(scene: Scene) -> None:
    read = scene.begin()
    scene.arming.writers_gone([], 0)
    scene.end(read, "old", xmin=20)
    assert scene.is_in(Armed)
    assert scene.next_read.when > scene.now


async def test_a_notification_during_a_read_causes_another(scene: Scene) -> None:
    read = scene.begin()
    scene.board.notified(TABLE, [7])
    scene.end(read, "old", xmin=20)
    assert scene.is_in(Armed)
    scene.read("new", xmin=20)
    assert scene.watch.is_over


@pytest.mark.parametrize(("table", "keys"), [(TABLE, [7]), (TABLE, None), (None, None)])
async def test_a_notification_has_the_row_read_at_once(
    armed: Scene, table: int | None, keys: list[int] | None
) -> None:
    armed.board.notified(table, keys)
    assert (armed.next_read.when, armed.next_read.why) == (NOW, Why.NOTIFIED)


@pytest.mark.parametrize(("table", "keys"), [(TABLE, [8]), (TABLE + 1, [7]), (TABLE + 1, None)])
async def test_a_notification_of_other_rows_changes_nothing(
    armed: Scene, table: int, keys: list[int] | None
) -> None:
    armed.board.notified(table, keys)
    assert armed.next_read.why is Why.DUE


async def test_a_notified_read_without_a_change_is_confirmed_with_evidence(armed: Scene) -> None:
    """Behind a load balancer, a standby that lags may have answered the read."""
    armed.board.notified(TABLE, [7])
    armed.read("old", xmin=20)
    assert (armed.next_read.when, armed.next_read.why) == (NOW, Why.CONFIRMATION)
    armed.read("old", xmin=20)
    assert armed.next_read.why is Why.DUE


async def test_a_read_that_a_standby_answers_proves_nothing(scene: Scene) -> None:
    scene.read("old", xmin=50, server=None)
    assert scene.is_in(Proving)
    assert not scene.arming.is_server_in_doubt


async def test_an_armed_watch_is_proven_again_after_another_primary_answered(armed: Scene) -> None:
    armed.board.notified(TABLE, [7])
    armed.read("old", xmin=50)
    armed.read("old", xmin=50, server=SERVER + 1)
    assert armed.is_in(Proving)
    assert armed.arming.is_server_in_doubt


async def test_other_row_ids_are_registered(armed: Scene) -> None:
    """The table was swapped: the oid is different, and the hash of the key is the same."""
    armed.board.notified(TABLE, [7])
    armed.read("old", xmin=50)
    read = armed.begin()
    other = RowId(TABLE + 1, 7)
    armed.board.take_in(read, Reading(("old",), evidence=Evidence((other,), 50, SERVER)))
    assert armed.is_in(Registering)
    [(registration, _)] = armed.arming.registrations.take_wanted()
    assert registration.row_id == other


async def test_an_obstacle_has_the_row_polled_until_it_is_gone(armed: Scene) -> None:
    news = armed.arming.set_obstacles({TABLE: Reason.TRIGGER_MISSING})
    assert news == {TABLE: Reason.TRIGGER_MISSING}
    assert armed.is_in(Polled)
    assert armed.reason is Reason.TRIGGER_MISSING
    assert armed.arming.set_obstacles({TABLE: Reason.TRIGGER_MISSING}) == {}
    armed.arming.set_obstacles({})
    assert armed.is_in(Registering)
    armed.register(boundary=30)
    armed.read("old", xmin=31)
    assert armed.is_in(Armed)


async def test_a_refused_row_is_polled_until_it_is_asked_for_again() -> None:
    scene = Scene()
    scene.read("old", xmin=10)
    [(registration, _)] = scene.arming.registrations.take_wanted()
    scene.arming.refused([registration])
    assert scene.is_in(Polled)
    assert scene.reason is Reason.TOO_MANY_REGISTRATIONS
    scene.arming.want_refused()
    assert scene.is_in(Registering)
    scene.register(boundary=11)


async def test_a_wait_that_must_be_armed_fails_once_it_cannot_be() -> None:
    scene = Scene(must_arm=True)
    scene.read("old", xmin=10)
    scene.arming.set_obstacles({TABLE: Reason.TRIGGER_MISSING})
    with pytest.raises(ListenError, match="trigger_missing"):
        await scene.watch.result


async def test_a_lost_connection_ends_no_wait_that_must_be_armed() -> None:
    scene = Scene(must_arm=True)
    scene.board.disconnected()
    assert not scene.watch.is_over


async def test_armed_watches_are_counted(armed: Scene) -> None:
    assert armed.arming.armed == 1
    armed.board.discard(armed.watch)
    assert armed.arming.armed == 0
    assert armed.board.schedule.of(armed.watch) is None


async def test_a_row_stays_registered_for_a_while_after_its_last_watch(armed: Scene) -> None:
    armed.board.discard(armed.watch)
    registrations = armed.arming.registrations
    assert registrations.take_unused(before=armed.now - 1) == []
    assert registrations.take_unused(before=armed.now) == [ROW]
    assert registrations.all() == []


async def test_a_second_watch_of_a_registered_row_needs_a_proof_alone(armed: Scene) -> None:
    second = a_watch(7, asyncio.get_running_loop())
    armed.board.add(second)
    [read] = armed.board.take_due()
    armed.board.begin([read])
    armed.board.take_in(read, Reading(("old",), evidence=Evidence((ROW,), 20, SERVER)))
    assert isinstance(second.phase, Proving)
    assert armed.arming.registrations.take_wanted() == []


async def test_the_first_read_of_the_next_wait_for_a_registered_row_arms_it(armed: Scene) -> None:
    armed.begin_next_wait()
    assert armed.is_in(Proving)
    armed.read("old", xmin=20)
    assert armed.is_in(Armed)
    assert armed.arming.registrations.take_wanted() == []


async def test_a_change_during_that_read_causes_another(armed: Scene) -> None:
    armed.begin_next_wait()
    read = armed.begin()
    armed.board.notified(TABLE, [ROW.key_hash])
    armed.end(read, "old", xmin=20)
    assert armed.next_read.when == NOW


async def test_row_ids_that_the_first_read_does_not_confirm_are_registered(armed: Scene) -> None:
    """The table was replaced between the two waits."""
    armed.begin_next_wait()
    other = RowId(TABLE + 1, 7)
    read = armed.begin()
    armed.board.take_in(read, Reading(("old",), evidence=Evidence((other,), 20, SERVER)))
    assert armed.is_in(Registering)
    [(registration, _)] = armed.arming.registrations.take_wanted()
    assert registration.row_id == other


async def test_the_next_wait_does_not_rely_on_a_table_that_cannot_notify() -> None:
    """The table was dropped and created again: its first read returns other row ids."""
    scene = Scene(must_arm=True)
    scene.read("old", xmin=10)
    scene.register(boundary=11)
    scene.arming.set_obstacles({TABLE: Reason.TRIGGER_MISSING})
    scene.begin_next_wait()
    assert scene.is_in(Registering)
    assert not scene.watch.is_over


async def test_a_row_that_is_not_registered_any_more_is_registered_again(armed: Scene) -> None:
    armed.board.discard(armed.watch)
    assert armed.arming.registrations.take_unused(before=armed.now) == [ROW]
    armed.begin_next_wait()
    assert armed.is_in(Registering)
    armed.read("old", xmin=20)
    [(registration, _)] = armed.arming.registrations.take_wanted()
    assert registration.row_id == ROW


async def test_the_pauses_between_the_reads_of_a_phase_double() -> None:
    scene = Scene()
    scene.board.disconnected()
    scene.board.connected(SERVER)
    pauses: list[float] = []
    for _ in range(8):
        scene.read("old", xmin=1, server=None)
        pauses.append(scene.next_read.when - scene.now)
        scene.now = scene.next_read.when
    assert pauses[:7] == pytest.approx([0.005 * 2**i for i in (0, 0, 1, 2, 3, 4, 5)])


async def test_another_attempt_that_fails_causes_a_read_unless_many_others_poll() -> None:
    """Many processes that lost their relay try again often; each polls at its interval only."""
    scene = Scene()
    for polling in (0.0, 100.0):
        scene.board.disconnected(polling)
        scene.now = max(scene.now, scene.next_read.when) + 0.01
        scene.read("old", xmin=1, server=None)
        due = scene.next_read.when
        scene.board.disconnected(polling)
        assert (scene.next_read.when == due) is (polling > 0)


async def test_a_read_after_a_loss_that_fails_is_repeated_soon(armed: Scene) -> None:
    """What changed around the loss is found, also by a wait whose interval is an hour."""
    armed.board.disconnected()
    for _ in range(3):
        armed.now = max(armed.now, armed.next_read.when)
        reads = armed.board.take_due()
        armed.board.begin(reads)
        armed.board.answered(reads, armed.now, problem="it is restarting")
        assert armed.next_read.when <= armed.now + 1


async def test_one_of_many_that_poll_has_moments_of_its_own(armed: Scene) -> None:
    """From the loss on, it reads no more often than it was told to."""
    lost = armed.now
    armed.board.disconnected(polling=100.0)  # its own interval is 60
    moments: list[float] = []
    for _ in range(5):
        moments.append(armed.next_read.when)
        armed.now = armed.next_read.when + 0.01
        armed.read("old", xmin=1, server=None)
    assert lost <= moments[0] <= lost + 100
    pauses = [after - before for before, after in pairwise(moments)]
    assert pauses[1:] == pytest.approx([100.0] * 3)  # before, a safety re-read may have been due


async def test_a_wait_whose_time_has_passed_ends_by_a_read_that_began_after_that() -> None:
    scene = Scene()
    watch = a_watch(8, asyncio.get_running_loop(), deadline=scene.now + 1)
    scene.board.add(watch)
    reads = scene.board.take_due()
    scene.board.begin(reads)
    scene.board.answered(reads, scene.now + 0.9)
    assert not watch.is_over
    scene.now += 1
    reads = [read for read in scene.board.take_due() if read.watch is watch]
    scene.board.answered(reads, scene.now)
    with pytest.raises(TimeoutError):
        await watch.result


class ColumnRows(Rows):
    """Rows that are registered with the columns that a wait watches."""

    def registered(self, names: tuple[str, ...]) -> tuple[Any]:
        return (frozenset(names),)


@pytest.mark.parametrize("must_arm", [False, True])
async def test_an_armed_wait_stays_armed_when_more_columns_of_its_row_are_refused(
    must_arm: bool,
) -> None:
    """The registration that the wait relies on still exists."""
    scene = Scene(must_arm=must_arm, rows=ColumnRows())
    scene.read("old", xmin=10)
    scene.register(boundary=11)
    scene.read("old", xmin=12)
    other = a_watch(7, asyncio.get_running_loop(), rows=ColumnRows(), columns=("m",))
    scene.board.add(other)
    [read] = scene.board.take_due()
    scene.board.begin([read])
    scene.board.take_in(read, Reading(("old",), evidence=Evidence((ROW,), 20, SERVER)))
    [(registration, _)] = scene.arming.registrations.take_wanted()
    scene.arming.refused([registration])
    assert scene.is_in(Armed)
    assert not scene.watch.is_over
    assert isinstance(other.phase, Polled)


async def test_a_wait_whose_row_is_refused_is_read_though_nothing_was_scheduled() -> None:
    scene = Scene(recheck=None)
    scene.read("old", xmin=10)
    batch = scene.arming.registrations.take_wanted()
    scene.board.schedule.remove(scene.watch)
    scene.arming.refused([registration for registration, _ in batch])
    assert scene.next_read.when == NOW


async def test_a_refused_row_of_a_table_with_an_obstacle_stays_polled_for_that() -> None:
    scene = Scene()
    scene.read("old", xmin=10)
    batch = scene.arming.registrations.take_wanted()
    scene.arming.set_obstacles({TABLE: Reason.TRIGGER_DISABLED})
    scene.arming.refused([registration for registration, _ in batch])
    scene.arming.want_refused()
    assert scene.reason is Reason.TRIGGER_DISABLED


async def test_what_can_never_be_armed_stays_polled_after_an_obstacle_is_gone(
    armed: Scene,
) -> None:
    armed.arming.cannot_prove([armed.watch], Reason.NO_HASH)
    armed.arming.set_obstacles({TABLE: Reason.TRIGGER_DISABLED})
    armed.arming.set_obstacles({})
    assert armed.reason is Reason.NO_HASH


async def test_a_wait_that_has_ended_is_not_counted_again(armed: Scene) -> None:
    armed.watch.result.cancel()
    armed.board.discard(armed.watch)
    armed.arming.cannot_prove([armed.watch], Reason.NO_HASH)
    assert armed.arming.armed == 0


async def test_a_read_that_takes_longer_than_a_look_at_the_locks_still_proves(
    scene: Scene,
) -> None:
    """The lock table is queried again each second, because of other watches."""
    scene.arming.writers_gone([TABLE], 11)
    read = scene.begin()
    scene.arming.writers_gone([TABLE], 12)
    scene.end(read, "old", xmin=5)
    assert scene.is_in(Armed)


async def test_a_refused_wait_is_armed_once_another_has_its_row_registered() -> None:
    scene = Scene()
    scene.read("old", xmin=10)
    [(registration, _)] = scene.arming.registrations.take_wanted()
    scene.arming.refused([registration])
    scene.arming.registered([(registration, None)], 11)
    scene.read("old", xmin=12)
    assert scene.is_in(Armed)


async def test_only_a_read_that_began_after_the_look_at_the_locks_uses_it(scene: Scene) -> None:
    """Changes between the read's snapshot and the look at the locks sent no notification."""
    read = scene.begin()
    scene.arming.writers_gone([TABLE], 11)
    scene.end(read, "old", xmin=5)
    assert scene.is_in(Proving)
    scene.read("new", xmin=5)
    assert scene.watch.is_over
