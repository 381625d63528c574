"""The checksum of what is registered."""

from __future__ import annotations

from rowbell._watch.database.calls import checksum


def test_the_checksum_is_that_of_the_database() -> None:
    """As bigint arithmetic has it, for any oid and hash."""
    assert checksum([]) == 0
    assert checksum([(0, 5), (0, 6)]) == 3
    assert checksum([(2**32 - 1, -(2**63))]) == ((2**32 - 1) << 32 ^ 2**63) - 2**64 * (
        ((2**32 - 1) << 32 ^ 2**63) >= 2**63
    )
