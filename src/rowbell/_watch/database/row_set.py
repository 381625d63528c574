"""The rows that a listener has registered, with the checksum that the database computes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rowbell._watch.values.key_hash import RowId

_MODULUS: Final = 2**63 - 1


class RowSet:
    """A set of rows. Its checksum is kept up to date, so that it costs nothing to ask for it."""

    def __init__(self) -> None:
        self._rows: set[RowId] = set()
        self._sum = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowId]:
        return iter(self._rows)

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._rows

    @property
    def checksum(self) -> int:
        """What ``heartbeat()`` computes of the same rows."""
        return self._sum % _MODULUS

    def add(self, row_ids: Iterable[RowId]) -> None:
        """Add rows; those that are in it stay."""
        for row_id in row_ids:
            if row_id not in self._rows:
                self._rows.add(row_id)
                self._sum += _square(row_id)

    def discard(self, row_ids: Iterable[RowId]) -> None:
        """Remove rows; those that are not in it are ignored."""
        for row_id in row_ids:
            if row_id in self._rows:
                self._rows.remove(row_id)
                self._sum -= _square(row_id)


def _square(row_id: RowId) -> int:
    oid, key = row_id
    number = _signed(oid << 32) ^ key
    return number * number


def _signed(bits: int) -> int:
    """A 64-bit pattern as a PostgreSQL bigint, which is signed."""
    return bits - 2**64 if bits >= 2**63 else bits
