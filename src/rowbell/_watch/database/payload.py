"""What travels: the channels, and the payloads that are sent on them.

A payload is ``1:<oid of the table>:<hash of a key>,…``; ``1:<oid>:*`` for "some rows of this
table"; ``1:<oid>:?`` for "this table's triggers were created or dropped". The 1 is the version of
this format. Payloads of another version mean "read everything again", so that old processes survive
a migration; what is no payload of ours at all is ignored: channels have no privileges, anybody may
NOTIFY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

BROADCAST: Final = "rowbell"
"""The channel that every listener listens on; ``open_listener()`` tells it its own as well."""

_PAYLOAD: Final = re.compile(r"1:(\d{1,10}):([*?]|-?\d{1,19}(?:,-?\d{1,19})*)", re.ASCII)
_OTHER_VERSION: Final = re.compile(r"(?!1:)\d{1,4}:\d{1,10}:.*", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification, decoded.

    Attributes:
        table_oid: The table's oid; ``None`` for all tables.
        keys: The hashes of the rows' keys; ``None`` for all rows.
        redefined: Whether the table's triggers have changed.
    """

    table_oid: int | None
    keys: tuple[int, ...] | None
    redefined: bool = False


def decode(payload: str) -> Notification | None:
    """The notification that a payload stands for, ``None`` if it is not one of ours."""
    match = _PAYLOAD.fullmatch(payload)
    if match is None:
        return Notification(None, None) if _OTHER_VERSION.fullmatch(payload) else None
    table_oid, keys = match.groups()
    if keys in {"*", "?"}:
        return Notification(int(table_oid), None, redefined=keys == "?")
    return Notification(int(table_oid), tuple(map(int, keys.split(","))))


@dataclass(slots=True)
class Heard:
    """Notifications that came together, merged.

    Attributes:
        everything: Whether all rows of all tables are meant.
        rows: The hashes of keys by the table's oid; ``None`` for all of its rows.
    """

    everything: bool = False
    rows: dict[int, set[int] | None] = field(default_factory=dict[int, set[int] | None])

    def __bool__(self) -> bool:
        return self.everything or bool(self.rows)

    def add(self, notification: Notification) -> None:
        """Take one in."""
        if notification.table_oid is None:
            self.everything = True
        elif notification.keys is None:
            self.rows[notification.table_oid] = None
        elif (keys := self.rows.setdefault(notification.table_oid, set())) is not None:
            keys.update(notification.keys)
