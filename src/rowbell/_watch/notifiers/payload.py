"""The payloads that triggers send (``sql/notify.sql``), and the channel that all listeners share.

A payload is ``1:<oid of the table>:<hash of a key>,…``, or ``1:<oid>:*`` for some rows of the
table, or ``1:<oid>:?`` where its triggers were created or dropped. The 1 is the version of this
format. A payload of another version means that all rows are to be read, so that processes of two
versions of rowbell can run side by side. What is no payload of ours is ignored: channels have no
privileges, so anybody may send anything.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from rowbell._watch.notifiers.notification import Notification

BROADCAST: Final = "rowbell"
"""The channel that every listener listens on; ``open_listener()`` gives it one of its own."""

_PAYLOAD: Final = re.compile(r"1:(\d{1,10}):([*?]|-?\d{1,19}(?:,-?\d{1,19})*)", re.ASCII)
_OTHER_VERSION: Final = re.compile(r"(?!1:)\d{1,4}:\d{1,10}:.*", re.ASCII | re.DOTALL)


class Announcement(Enum):
    """What a payload says that is not about rows."""

    TRIGGERS_CHANGED = "triggers changed"
    """Triggers of a table were created or dropped."""


def decode(payload: str) -> Notification | Announcement | None:
    """What a payload says; ``None`` if it is not one of ours."""
    match = _PAYLOAD.fullmatch(payload)
    if match is None:
        return Notification(None, None) if _OTHER_VERSION.fullmatch(payload) else None
    table_oid, keys = match.groups()
    if keys == "?":
        return Announcement.TRIGGERS_CHANGED
    return Notification(int(table_oid), None if keys == "*" else tuple(map(int, keys.split(","))))
