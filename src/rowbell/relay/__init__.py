"""A relay: one process that listens for many, so that a fleet needs one LISTEN connection.

``Relay`` is that process. The others give a ``SocketNotifier`` or a ``NatsNotifier`` to their
``RowWatcher``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from rowbell._watch.wire.stream import SocketNotifier
    from rowbell.relay.relay import Relay
except ImportError as _error:
    raise ImportError("rowbell.relay needs msgspec: pip install rowbell[relay]") from _error

from rowbell.relay.status import RelayState, RelayStatus

if TYPE_CHECKING:
    from rowbell._watch.wire.nats import NatsNotifier

__all__ = ["NatsNotifier", "Relay", "RelayState", "RelayStatus", "SocketNotifier"]


def __getattr__(name: str) -> Any:
    """``NatsNotifier`` needs the extra ``nats``, and the others do not."""
    if name == "NatsNotifier":
        from rowbell._watch.wire.nats import NatsNotifier  # noqa: PLC0415  # an extra's

        return NatsNotifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
