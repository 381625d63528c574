"""What a relay is doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from rowbell._watch.reasons import Reason


class RelayState(StrEnum):
    """The states of a relay."""

    IDLE = "idle"
    """Not entered yet."""
    CONNECTING = "connecting"
    """Neither leads nor stands by: it has no connection yet, or ``reason`` says why it has none."""
    STANDING_BY = "standing by"
    """Another relay of the same name leads. It tries each second."""
    LEADING = "leading"
    """Processes can reach it, and it listens for them."""
    CLOSED = "closed"
    """Closed permanently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStatus:
    """What a relay is doing, at one moment.

    Attributes:
        state: The state.
        since: When the state began.
        reason: Why it is not in the state that it should be in; ``None`` if it is.
        detail: What was observed; empty if there is no reason.
        term: The number of its last term: that of a later leader is higher. 0 before its first.
        sessions: The processes that it listens for.
        rows: The rows that it has registered, each once for a role.
        notifications: The notifications that it has received from the database.
        messages: The messages that it has sent to processes.
        held: The messages that wait for the database's answer.
        gaps: How often it has told processes that notifications may have been missed, by cause.
        answer_time: How long the last request of a process waited for its answer, in seconds.
    """

    state: RelayState
    since: datetime
    reason: Reason | None
    detail: str
    term: int
    sessions: int
    rows: int
    notifications: int
    messages: int
    held: int
    gaps: dict[str, int]
    answer_time: float
