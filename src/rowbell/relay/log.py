"""The state of a relay. Each transition is logged once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rowbell._watch.reasons import explain
from rowbell._watch.state import logger
from rowbell.relay.status import RelayState

if TYPE_CHECKING:
    from rowbell._watch.reasons import Reason


class RelayLog:
    """The current state.

    Args:
        database: The name of the database, for the log.

    Attributes:
        state: The state.
        since: When it began.
        reason: Why it is not the state that it should be; ``None`` if it is.
        detail: What was observed.
        changed: Set at each transition.
    """

    def __init__(self, database: str | None) -> None:
        self.state: RelayState = RelayState.IDLE
        self.since: datetime = datetime.now(UTC)
        self.reason: Reason | None = None
        self.detail: str = ""
        self.changed: asyncio.Event = asyncio.Event()
        self._name = f"[{database}]"

    def enter(self, state: RelayState, reason: Reason | None = None, detail: str = "") -> None:
        """Enter a state, or change the reason of the current one."""
        if self.state is RelayState.CLOSED:
            return
        self.detail = explain(reason, detail) if reason else detail
        if (state, reason) == (self.state, self.reason):
            return
        if state is not self.state:
            self.since = datetime.now(UTC)
        self.state, self.reason = state, reason
        self.changed.set()
        if reason is None:
            logger.info("rowbell relay %s: %s", self._name, state)
        else:
            logger.warning("rowbell relay %s: %s (%s): %s", self._name, state, reason, self.detail)
