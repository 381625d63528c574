"""The payloads that triggers send (``sql/notify.sql``), and the channel that all listeners share.

A payload is ``1:<table oid>:<hash of a key>,…``. It is ``1:<oid>:*`` for some rows of the table,
and ``1:<oid>:?`` if the table's triggers were created or dropped. The 1 is the version of this
format. A payload of another version means that all rows must be read, so processes of two versions
of rowbell can run side by side. Other payloads are ignored: channels have no privileges, so any
role may send anything.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from rowbell._watch.notifiers.notification import Notification

BROADCAST: Final = "rowbell"
"""The channel that all listeners listen on. ``open_listener()`` also gives each its own channel."""

_PAYLOAD: Final = re.compile(r"1:(\d{1,10}):([*?]|-?\d{1,19}(?:,-?\d{1,19})*)", re.ASCII)
_OTHER_VERSION: Final = re.compile(r"(?!1:)\d{1,4}:\d{1,10}:.*", re.ASCII | re.DOTALL)


class Announcement(Enum):
    """A payload that is not about rows."""

    TRIGGERS_CHANGED = "triggers changed"
    """Triggers of a table were created or dropped."""


def decode(payload: str) -> Notification | Announcement | None:
    """The meaning of a payload; ``None`` if it is not one of rowbell's."""
    match = _PAYLOAD.fullmatch(payload)
    if match is None:
        return Notification(None, None) if _OTHER_VERSION.fullmatch(payload) else None
    table_oid, keys = match.groups()
    if keys == "?":
        return Announcement.TRIGGERS_CHANGED
    return Notification(int(table_oid), None if keys == "*" else tuple(map(int, keys.split(","))))
