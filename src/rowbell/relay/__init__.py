"""A relay: one process that listens for many, so that a fleet needs one LISTEN connection.

``Relay`` is that process, and ``SocketNotifier`` is what the others give to their ``RowWatcher``.
"""

from __future__ import annotations

from rowbell._watch.wire.stream import SocketNotifier
from rowbell.relay.relay import Relay
from rowbell.relay.status import RelayState, RelayStatus

__all__ = ["Relay", "RelayState", "RelayStatus", "SocketNotifier"]
