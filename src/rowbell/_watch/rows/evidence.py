"""What a read says for the proof, beside the values of the row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rowbell._watch.values.key_hash import RowId


class Evidence(NamedTuple):
    """What the server said in the same statement that read the row.

    Attributes:
        row_ids: The row's id in each table of its class.
        xmin: The lowest transaction ID that was running when the read took its snapshot.
        server: When the server that answered was started, in seconds, by which it is known;
            ``None`` for a standby. Transaction IDs of one server mean nothing on another.
    """

    row_ids: tuple[RowId, ...]
    xmin: int
    server: float | None
