"""A notification: which rows may have changed. It does not contain the change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Notification:
    """Rows that may have changed.

    Attributes:
        table_oid: Their table; ``None`` for all tables.
        keys: The hashes of their keys; ``None`` for all rows.
    """

    table_oid: int | None
    keys: tuple[int, ...] | None


@dataclass(slots=True)
class Merged:
    """Notifications that arrived together. Each table and row is in it once.

    Attributes:
        everything: Whether it concerns all rows of all tables.
        keys: The hashes of keys by table oid; ``None`` for all rows of the table.
    """

    everything: bool = False
    keys: dict[int, set[int] | None] = field(default_factory=dict[int, set[int] | None])

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys)

    def __iter__(self) -> Iterator[Notification]:
        if self.everything:
            yield Notification(None, None)
            return
        for table_oid, keys in self.keys.items():
            yield Notification(table_oid, None if keys is None else tuple(keys))

    def add(self, notification: Notification) -> None:
        """Add a notification."""
        if notification.table_oid is None:
            self.everything = True
        elif notification.keys is None:
            self.keys[notification.table_oid] = None
        elif (keys := self.keys.setdefault(notification.table_oid, set())) is not None:
            keys.update(notification.keys)
