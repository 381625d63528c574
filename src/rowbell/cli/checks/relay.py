"""Whether a relay answers, and listens to this database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rowbell._watch.connections import Connections
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.relayed import RelayedNotifier
from rowbell._watch.reasons import REMEDIES
from rowbell._watch.timing import Timing
from rowbell.cli.checks.finding import Finding, Outcome

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._watch.notifiers.notification import Notification
    from rowbell._watch.wire.transport import Notifies


class _Nobody:
    """Receives notifications of no row."""

    def on_notification(self, notification: Notification) -> None:
        """Nothing is registered."""

    def on_gap(self) -> None:
        """Nothing is registered."""


async def answers(engine: AsyncEngine, notifies: Notifies) -> list[Finding]:
    """Begin a session, as a process does: with a ticket of this role."""
    name = "relay"
    notifier = RelayedNotifier(notifies, Connections(engine), Timing())
    begun = time.perf_counter()
    try:
        async with notifier.session(_Nobody()) as session:
            taken = 1000 * (time.perf_counter() - begun)
            term = session.conversation.term
            await session.end()
    except CannotNotifyError as error:
        fix = REMEDIES.get(error.reason, "")
        return [Finding(name, Outcome.FAILED, f"{error.reason}: {error.detail}", fix)]
    evidence = f"the leader of term {term} has received this role's ticket, after {taken:.1f} ms"
    return [Finding(name, Outcome.OK, evidence)]
