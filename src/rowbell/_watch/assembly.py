"""Puts the parts of a watcher together, and chooses the notifier."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowbell._watch.board.board import Board
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.notifiers.postgres import PostgresNotifier
from rowbell._watch.reading.reader import Reader
from rowbell._watch.state import Mode
from rowbell._watch.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowbell._watch.connections import Connections
    from rowbell._watch.notifiers.contract import Notifier
    from rowbell._watch.state import StateLog
    from rowbell._watch.timing import Timing
    from rowbell._watch.wire.transport import Notifies


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one watcher.

    Attributes:
        board: Its watches.
        notifier: The notifier.
        reader: The task that reads for the board.
        subscription: The task that connects the board with the notifier.
    """

    board: Board
    reader: Reader
    notifier: Notifier
    subscription: Subscription


def assemble(
    connections: Connections,
    listens: ListenConnection | Notifies,
    state: StateLog,
    *,
    mode: Mode,
    recheck: float | None,
    timing: Timing,
    changed: Callable[[], None],
) -> Parts:
    """Put the parts of a watcher together.

    Args:
        connections: The connections that its reads use.
        listens: Creates the connection that listens; or where the relay is that listens.
        state: The log that the parts report their state to.
        mode: Whether waits must be armed.
        recheck: How often the row of an armed wait is read without a notification, in seconds.
        timing: All other times.
        changed: Called when the statistics may have changed.
    """
    wake_reader, wake_subscription = asyncio.Event(), asyncio.Event()
    board = Board(
        lambda: asyncio.get_running_loop().time(),
        timing,
        recheck=recheck,
        must_arm=mode is Mode.LISTEN,
        earlier=wake_reader.set,
        attention=wake_subscription.set,
        changed=changed,
    )
    notifier: Notifier
    if isinstance(listens, ListenConnection):
        notifier = PostgresNotifier(listens, connections.notify, timing)
    else:
        from rowbell._watch.notifiers.relayed import RelayedNotifier  # noqa: PLC0415  # an extra's

        notifier = RelayedNotifier(listens, connections, timing)
    return Parts(
        board,
        Reader(board, wake_reader, connections, state),
        notifier,
        Subscription(board, wake_subscription, notifier, state, timing),
    )
