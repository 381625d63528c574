"""The parts of the benchmark, in the order of the page."""

from __future__ import annotations

from typing import Any

from again import AGAIN
from bulk import BULK
from churn import CHURN
from crowd import CROWD
from followers import FOLLOWERS
from hop import HOP
from inserts import INSERTS
from listeners import LISTENERS
from loops import LOOPS
from lost_relay import LOST_RELAY
from many_to_many import MANY_TO_MANY
from notifications import NOTIFICATIONS
from page import page
from part import Part
from polled import POLLED
from record import load
from shared import SHARED
from subjects import SUBJECTS
from thousand import THOUSAND
from wake import WAKE
from writers import WRITERS

PARTS: dict[str, Part[Any]] = {
    part.name: part
    for part in (
        WAKE,
        HOP,
        SHARED,
        SUBJECTS,
        LOST_RELAY,
        LISTENERS,
        AGAIN,
        LOOPS,
        THOUSAND,
        CROWD,
        FOLLOWERS,
        POLLED,
        NOTIFICATIONS,
        WRITERS,
        BULK,
        INSERTS,
        CHURN,
        MANY_TO_MANY,
    )
}


def written() -> str:
    """The page, from the saved numbers of all parts."""
    kept = [(part, load(name)) for name, part in PARTS.items()]
    return page([(part.section(of["numbers"]), of["run"]) for part, of in kept if of is not None])
