"""The checksum of the registrations."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.values.key_hash import RowId

row_ids = st.builds(RowId, st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))


def checksum(rows: Iterable[tuple[int, int]]) -> int:
    row_set = RowSet()
    row_set.add(RowId(*row) for row in rows)
    return row_set.checksum


def test_the_checksum_is_that_of_the_database() -> None:
    """It is computed like bigint arithmetic in PostgreSQL, for any oid and hash."""
    assert checksum([]) == 0
    assert checksum([(0, 5), (0, 6)]) == 61
    assert checksum([(2**32 - 1, -(2**63))]) == (2**63 - 2**32) ** 2 % (2**63 - 1)


@given(st.sets(st.integers(0, 2**30), min_size=1, max_size=20), st.integers(1, 5))
def test_keys_that_are_all_moved_alike_have_another_checksum(keys: set[int], step: int) -> None:
    """XOR would give the same checksum if 1 is added to two even keys."""
    rows = {(0, key) for key in keys}
    assert checksum(rows) != checksum((oid, key + step) for oid, key in rows)


@given(st.lists(row_ids), st.lists(row_ids))
def test_the_checksum_depends_on_what_is_in_the_set_and_not_on_how_it_got_there(
    added: list[RowId], removed: list[RowId]
) -> None:
    row_set = RowSet()
    row_set.add([*added, *removed])
    row_set.discard(removed)
    row_set.discard(removed)
    assert set(row_set) == set(added) - set(removed)
    assert len(row_set) == len(set(row_set))
    assert row_set.checksum == checksum(set(added) - set(removed))
