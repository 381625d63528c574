"""How often notifications may have a table's rows read in vain.

Any role may send a notification. A read that shows no change is charged to its table, and charges
are forgiven at a fixed rate. Beyond an allowance, notified rows wait until enough is forgiven. So
the first notification is answered at once. Those that follow are answered together, by a read that
begins after the last of them. None is dropped.
"""

from __future__ import annotations

import math
from typing import Final

ROWS_PER_SECOND: Final = 5_000
"""How many rows of a table may be read in vain each second, in the long run."""

ALLOWANCE: Final = 1_000
"""How many rows may be read in vain before the next notification has to wait."""

STATEMENT: Final = 50
"""What a read costs at least, however few its rows."""

LONGEST: Final = 2.0
"""The longest that a notification waits, in seconds."""

TOGETHER: Final = 0.25
"""What has to wait is read at multiples of that, in seconds, so that it is read together."""


class Throttle:
    """What was read in vain, by table. Times are those of the event loop's clock, in seconds."""

    def __init__(self) -> None:
        self._forgiven_at: dict[int, float] = {}

    def spend(self, table_oid: int, rows: int, now: float) -> None:
        """Rows of a table were read because of notifications, and none had changed."""
        begin = max(self._forgiven_at.get(table_oid, now), now)
        cost = max(rows, STATEMENT) / ROWS_PER_SECOND
        most = now + LONGEST + ALLOWANCE / ROWS_PER_SECOND
        self._forgiven_at[table_oid] = min(begin + cost, most)

    def until(self, table_oid: int, now: float) -> float:
        """When rows of the table may be read again: at once, or later."""
        allowed = self._forgiven_at.get(table_oid, now) - ALLOWANCE / ROWS_PER_SECOND
        return now if allowed <= now else math.ceil(allowed / TOGETHER) * TOGETHER
