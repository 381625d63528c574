"""The state of a watcher, the reason for it, and the evidence."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rowbell._watch.reasons import OF_THE_CONNECTION, Reason, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger("rowbell")


class Mode(StrEnum):
    """How a watcher finds changes."""

    AUTO = "auto"
    """Listen if possible; otherwise poll, and log that."""
    LISTEN = "listen"
    """Listen; raise ``ListenError`` if that is not possible."""
    POLL = "poll"
    """Poll."""


class WatcherState(StrEnum):
    """The states of a watcher.

    ::

        IDLE ── entered ──▶ CONNECTING ── proven ──────▶ LISTENING
                                │                          │      ▲
                           cannot listen            connection lost │ proven
                                │                          ▼      │
                                └───────────────────────▶ POLLING ─┘
        any ── closed ──▶ CLOSED
    """

    IDLE = "idle"
    """Not entered yet."""
    CONNECTING = "connecting"
    """Before its first LISTEN; waits are polled meanwhile."""
    LISTENING = "listening"
    """LISTEN was accepted, and a notification from another connection was received."""
    POLLING = "polling"
    """Not listening, because of ``reason``. Connecting is retried unless that cannot help."""
    CLOSED = "closed"
    """Closed permanently."""


_warned: WeakKeyDictionary[Dialect, set[tuple[Reason, str]]] = WeakKeyDictionary()
"""The warnings that were logged, so that a watcher that is opened for each wait logs them once."""


class StateLog:
    """The current state. Each transition is logged once.

    Args:
        engine: The engine of the watcher.
        changed: Called after each transition.
    """

    def __init__(self, engine: AsyncEngine, changed: Callable[[], None]) -> None:
        self.state: WatcherState = WatcherState.IDLE
        self.since: datetime = datetime.now(UTC)
        self.reason: Reason | None = None
        self.detail: str = ""
        self.reconnects: int = 0
        self._name = f"[{engine.url.database}]"
        self._changed = changed
        self._warned = _warned.setdefault(engine.dialect, set())
        self._listened = False

    def enter(self, state: WatcherState, reason: Reason | None = None, detail: str = "") -> None:
        """Enter a state, or change the reason of the current state."""
        if self.state is WatcherState.CLOSED:
            return
        self.detail = explain(reason, detail) if reason else detail
        if (state, reason) == (self.state, self.reason):
            return
        if state is not self.state:
            self.since = datetime.now(UTC)
        if state is WatcherState.LISTENING:
            self.reconnects += self._listened
            self._listened = True
            # Reasons of tables are not logged again, because a watcher may be opened for each wait.
            self._warned -= {one for one in self._warned if one[0] in OF_THE_CONNECTION}
        self.state, self.reason = state, reason
        if reason is None or reason is Reason.REQUESTED:
            logger.info("rowbell %s: %s", self._name, state)
        else:
            self.warn(reason, detail)
        self._changed()

    def warn(self, reason: Reason, detail: str) -> None:
        """Log once that waits are polled, the reason, and the remedy."""
        _warn(self._warned, self._name, reason, detail)

    def note(self, what: str) -> None:
        """Log an event that does not change the state."""
        logger.warning("rowbell %s: %s", self._name, what)


def warn_once(engine: Engine, reason: Reason, detail: str) -> None:
    """Log once for an engine that a wait is polled without a watcher."""
    warned = _warned.setdefault(engine.dialect, set())
    _warn(warned, f"[{engine.url.database}]", reason, detail)


def _warn(warned: set[tuple[Reason, str]], name: str, reason: Reason, detail: str) -> None:
    if (reason, detail) not in warned:
        warned.add((reason, detail))
        logger.warning("rowbell %s polls (%s): %s", name, reason, explain(reason, detail))
