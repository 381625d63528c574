"""The phases of a watch: whether it relies on notifications, and the proof that it may.

=============  ================================================================  ===============
phase          what is known                                                     the row is read
=============  ================================================================  ===============
`Polled`       nothing notifies of the row                                       at its interval
`Registering`  its registration is wanted                                        soon
`Proving`      its registration is committed; the boundary was assigned after    soon
`Armed`        every change that is committed from now on sends a notification   when notified
=============  ================================================================  ===============

**The danger.** A writer's trigger looks the row up before the registration is visible, and its
transaction commits after the watch's first read. It does not notify, and the read did not see it.

**The proof.** A transaction whose trigger has run has a transaction ID. The boundary is an ID that
was assigned after the registration was committed. So every transaction whose trigger missed the
registration has a lower ID. Once the xmin of a read's snapshot (the lowest ID that is still
running) is above the boundary, all those transactions have ended, and the same snapshot shows what
they committed. A trigger that runs later sees the registration, or notifies all listeners.

**The shortcut.** A long transaction elsewhere keeps xmin low until it ends. A writer also holds a
lock on the table until its changes are visible. If no transaction below the boundary holds such a
lock, the writers are gone, and any read that begins afterwards is a proof too.

**Which read.** A read proves only the phase that its watch was in when the read began. After a gap
the watch is in another `Proving`, and a read from before the gap proves nothing. So phases are
compared by identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rowbell._watch.reasons import Reason
    from rowbell._watch.rows.evidence import Evidence


@dataclass(frozen=True, eq=False, slots=True)
class Polled:
    """Nothing notifies of the row.

    Attributes:
        since: When the phase began, on the board's clock.
        reason: Why; ``None`` while nothing notifies of any row.
    """

    since: float
    reason: Reason | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Registering:
    """The row is to be registered, under the ids that a read returns.

    Attributes:
        since: When the phase began.
    """

    since: float


@dataclass(frozen=True, eq=False, slots=True)
class Proving:
    """The row is registered. A read must prove that no change was missed.

    Attributes:
        since: When the phase began.
        boundary: A transaction ID that was assigned after the registration was committed.
        writers_gone: Whether no transaction below the boundary can still change the table.
    """

    since: float
    boundary: int
    writers_gone: bool = False

    def is_proven_by(self, evidence: Evidence) -> bool:
        """Whether a read that began in this phase shows all changes that were not notified."""
        return self.writers_gone or self.boundary < evidence.xmin


@dataclass(frozen=True, eq=False, slots=True)
class Armed:
    """Every change that is committed from now on sends a notification.

    Attributes:
        since: When the phase began.
    """

    since: float


Phase: TypeAlias = Polled | Registering | Proving | Armed


@dataclass(frozen=True, slots=True)
class Unnotified:
    """Nothing notifies of the row: there is no connection, or a reason concerns only this row."""

    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The notifier is connected, and no obstacle is known."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The registration is committed; the boundary was assigned after that."""

    boundary: int


@dataclass(frozen=True, slots=True)
class Read:
    """A read has shown no change."""

    begun_in: Phase
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class OtherServer:
    """Another server than the one that notifies has answered a read."""


@dataclass(frozen=True, slots=True)
class OtherRowIds:
    """A read has returned row ids that differ from those that are registered."""


@dataclass(frozen=True, slots=True)
class WritersGone:
    """No transaction below the boundary can still change the table."""

    boundary: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Notifications may have been missed. The boundary was assigned after the gap was found."""

    boundary: int


Event: TypeAlias = (
    Unnotified | Wanted | Registered | Read | OtherServer | OtherRowIds | WritersGone | Gap
)


def following(phase: Phase, event: Event, now: float) -> Phase:  # noqa: PLR0911  # one a row
    """The phase after an event. Pairs that are not listed here change nothing.

    Args:
        phase: The phase before.
        event: What has happened.
        now: The time on the board's clock.
    """
    match event, phase:
        case Unnotified(reason), _:
            return Polled(now, reason)
        case Wanted(), Polled():
            return Registering(now)
        case Registered(boundary), Registering() | Proving() | Armed():
            # Also from armed: the registration may have been deleted, and was registered again.
            return Proving(now, boundary)
        case Read(begun_in, evidence), Proving() if begun_in is phase:
            return Armed(now) if phase.is_proven_by(evidence) else phase
        case OtherRowIds(), Proving() | Armed():
            return Registering(now)
        case OtherServer(), Armed():
            return Registering(now)
        case WritersGone(boundary), Proving(writers_gone=False) if phase.boundary <= boundary:
            return Proving(phase.since, phase.boundary, writers_gone=True)
        case Gap(boundary), Proving() | Armed():
            return Proving(now, boundary)
        case _:
            return phase
