"""Limits the reads of a table that notifications cause and that find no change.

Any role may send a notification. A read that shows no change is charged to its table, and charges
expire at a fixed rate. When the charges exceed the allowance, notified rows wait until enough of
them have expired. So the first notification is answered at once. Later ones are answered together,
by a read that begins after the last of them. None is dropped.
"""

from __future__ import annotations

import math
from typing import Final

ROWS_PER_SECOND: Final = 5_000
"""How many rows of a table may be read without finding a change, per second, on average."""

ALLOWANCE: Final = 1_000
"""How many rows may be read without finding a change before a notification has to wait."""

STATEMENT: Final = 50
"""The minimum charge of a read, in rows."""

LONGEST: Final = 2.0
"""The longest time that a notification waits, in seconds."""

TOGETHER: Final = 0.25
"""Delayed reads take place at multiples of this time, in seconds, so that they are batched."""


class Throttle:
    """The charges of each table. Times are those of the event loop's clock, in seconds."""

    def __init__(self) -> None:
        self._forgiven_at: dict[int, float] = {}

    def spend(self, table_oid: int, rows: int, now: float) -> None:
        """Rows of a table were read because of notifications, and none of them had changed."""
        begin = max(self._forgiven_at.get(table_oid, now), now)
        cost = max(rows, STATEMENT) / ROWS_PER_SECOND
        most = now + LONGEST + ALLOWANCE / ROWS_PER_SECOND
        self._forgiven_at[table_oid] = min(begin + cost, most)

    def until(self, table_oid: int, now: float) -> float:
        """When rows of the table may be read again: now, or later."""
        allowed = self._forgiven_at.get(table_oid, now) - ALLOWANCE / ROWS_PER_SECOND
        return now if allowed <= now else math.ceil(allowed / TOGETHER) * TOGETHER
