"""What travels: the channels, and the payloads that the triggers send on them.

A payload is ``1:<oid of the table>:<hash of a key>,…``, or ``1:<oid>:*`` for "some rows of
this table". The 1 is the version of this format. Payloads of another version mean "re-read
everything", so that old processes survive a migration; what is no payload of ours at all is
nobody's business: channels have no privileges, anybody may NOTIFY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

BROADCAST: Final = "rowbell"
"""The channel that every listener hears."""

_PAYLOAD: Final = re.compile(r"1:(\d{1,10}):(\*|-?\d{1,19}(?:,-?\d{1,19})*)", re.ASCII)
_OTHER_VERSION: Final = re.compile(r"(?!1:)\d{1,4}:\d{1,10}:.*", re.ASCII | re.DOTALL)


def own_channel(backend: int) -> str:
    """The channel that only the listener with that backend hears."""
    return f"{BROADCAST}_{backend}"


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification, decoded.

    Attributes:
        relation: The table's oid; ``None`` for all tables.
        keys: The hashes of the rows' keys; ``None`` for all rows.
    """

    relation: int | None
    keys: tuple[int, ...] | None


def decode(payload: str) -> Notification | None:
    """The notification that a payload stands for, ``None`` if it is not one of ours."""
    match = _PAYLOAD.fullmatch(payload)
    if match is None:
        return Notification(None, None) if _OTHER_VERSION.fullmatch(payload) else None
    relation, keys = match.groups()
    if keys == "*":
        return Notification(int(relation), None)
    return Notification(int(relation), tuple(map(int, keys.split(","))))
