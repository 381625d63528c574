"""The checksum of the registrations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rowbell._watch.database.calls import checksum


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
