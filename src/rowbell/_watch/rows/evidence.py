"""What a read returns for the proof, in addition to the row's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rowbell._watch.values.key_hash import RowId


class Evidence(NamedTuple):
    """What the server returned in the same statement that read the row.

    Attributes:
        row_ids: The row's id in each table of its class.
        xmin: The lowest transaction ID that was running when the read took its snapshot.
        server: When the server that answered was started, in seconds, which identifies it;
            ``None`` for a standby. Transaction IDs of one server mean nothing on another.
    """

    row_ids: tuple[RowId, ...]
    xmin: int
    server: float | None
