"""One wait: what it saw first, what would end it, and how it is being served.

*Every watch is armed, or it is polled.* A watch is

``UNARMED``
    the bell cannot be trusted for its row: it is read at its interval;
``ARMING``
    its row is registered, and a read is wanted that proves the registration was in time;
``ARMED``
    proven: every commit from now on that changes the row rings.

Why nothing is lost. A trigger that ran before the registration was visible rang nobody, and its
transaction may commit after the watch's first read. But a transaction that has fired a trigger
has its id, and the *boundary* is an id given out after the registration was committed: so that
transaction's id is below the boundary. Once a read's snapshot has its ``xmin`` (the lowest id
still running) above the boundary, all those transactions have ended, and the same snapshot shows
what they committed. A trigger that runs later sees the registration, or broadcasts.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement

from rowbell._watch.failures import as_result
from rowbell._watch.values.distinct import UNSEEN, rows_differ
from rowbell.errors import InvalidArgumentError, NotFoundError, WaitTimeoutError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Hashable, Sequence

    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._primary_key import Key
    from rowbell._watch.rows.mapped_rows import Evidence, MappedRows
    from rowbell._watch.rows.since import Since
    from rowbell._watch.state import Reason

Until: TypeAlias = "Callable[[Any], object] | ColumnElement[bool]"
"""A predicate on the row, or an SQL expression on the model's columns."""


class Arming(Enum):
    """How a watch is served."""

    UNARMED = "unarmed"
    ARMING = "arming"
    ARMED = "armed"


class Turn(Enum):
    """Where a watch is between two reads."""

    WAITING = "waiting"
    """To be read when it is due."""
    RUNG = "rung"
    """To be read now: it was armed and the bell rang, so the row has probably changed."""
    READING = "reading"
    """Being read."""
    READING_RUNG = "reading, because it rang"
    """Being read; if that shows no change it is read once more, with the proof that a primary
    answers."""
    AGAIN = "reading, and again"
    """Being read, perhaps too early: the bell rang meanwhile, or a proof is wanted."""


class Reading(NamedTuple):
    """A row as one read found it.

    Attributes:
        values: The values of the watched columns, in the watch's order.
        until: What the SQL expression ``until`` said.
        instance: The row as an instance of no session, where the read loaded it.
        evidence: What arming needs, where it was asked for.
    """

    values: tuple[Any, ...]
    until: bool = False
    instance: Any = None
    evidence: Evidence | None = None


@dataclass(eq=False, slots=True)
class Watch:
    """One waiter's interest in one row.

    Attributes:
        rows: The rows of the class.
        key: Which of them.
        columns: The attributes that are watched.
        interval: The polling interval, in seconds.
        timeout: The time given, in seconds; ``None`` for ever.
        deadline: When that time has passed, on the loop's clock.
        since: What the caller last saw, if that was given, until the first read has made the
            baseline of it.
        until: The condition, if one was given.
        condition_key: Equal for watches whose ``condition`` is the same.
        options: Loader options for the instance.
        wants_instance: Whether the result must be an instance. Otherwise it is one only where
            the read that ended the wait had loaded it for this wait alone.
        hindrance: Why it can never be armed, ``None`` if it can.
        baseline: The watched values as they were seen first, ``UNSEEN`` before. With ``until``
            those of the last read: a predicate is asked again when they have changed.
        found: Whether a read has found the row.
        unasked: Whether the predicate is to be asked about what was read last.
        asked_of: The instance that it was asked about last.
        arming: How the watch is served.
        boundary: What a read's horizon must exceed to arm it; negative once the lock table has
            shown that any read that begins now will do.
        names: The row in the tables of its class, as triggers name it: oid and hash.
        quick: The next interval while it is about to be armed.
        due: When it is to be read next, on the loop's clock.
        turn: Where it is between two reads.
        notified: Whether a notification has come since its last read began.
        read_for_notification: Whether one had come before that read.
        unchanged: Whether the last read found the values of the one before.
        result: Becomes the instance, ``None`` or the error.
    """

    rows: MappedRows
    key: Key
    columns: tuple[str, ...]
    interval: float
    timeout: float | None
    deadline: float
    result: Future[Any]
    since: Since | None = None
    until: Until | None = None
    condition_key: Hashable = None
    options: Sequence[ORMOption] = ()
    wants_instance: bool = False
    hindrance: Reason | None = None
    baseline: tuple[Any, ...] = ()
    found: bool = False
    unasked: bool = True
    asked_of: Any = None
    arming: Arming = Arming.UNARMED
    boundary: int = 0
    names: tuple[tuple[int, int], ...] = ()
    quick: float = 0.0
    due: float = math.inf
    turn: Turn = Turn.WAITING
    notified: bool = False
    read_for_notification: bool = False
    unchanged: bool = False

    def __post_init__(self) -> None:
        self.baseline = self.baseline or (UNSEEN,) * len(self.columns)

    @property
    def over(self) -> bool:
        """Whether the wait has ended."""
        return self.result.done()

    @property
    def condition(self) -> ColumnElement[bool] | None:
        """``until``, where it is for the server to evaluate."""
        return self.until if isinstance(self.until, ColumnElement) else None

    @property
    def predicate(self) -> Callable[[Any], object] | None:
        """``until``, where it is to be called with an instance."""
        return None if isinstance(self.until, ColumnElement) else self.until

    def observe(self, reading: Reading | None) -> bool:
        """Take a read in; whether it may end the wait.

        A deleted row ends it here. Otherwise the caller finishes the watch, after asking the
        predicate if there is one.
        """
        if reading is None:
            self.fail(NotFoundError(self.rows.model, self.key_by_name, deleted=self.found))
            return False
        changed = self._compare(reading.values)
        self.found, self.unchanged = True, not changed
        if self.until is None:
            return changed
        self.baseline = reading.values
        if self.condition is not None:
            return reading.until
        # It stays to be asked until it has answered: what is to answer may fail on the way.
        self.unasked |= changed
        return self.unasked

    def _compare(self, values: tuple[Any, ...]) -> bool:
        """Whether the values differ from the baseline, whose gaps they fill."""
        before = self.baseline
        if not self.found:
            self.baseline = tuple(
                new if old is UNSEEN else old for old, new in zip(before, values, strict=True)
            )
        return rows_differ(before, values, self.rows.forms.rules(self.columns))

    def prove(self, evidence: Evidence, boundary: int | None) -> None:
        """Become armed if that read proves that nothing was missed.

        Args:
            evidence: What the read said, on the server that notifies.
            boundary: The watch's boundary when the read began, ``None`` if it had none yet.
        """
        if self.arming is Arming.ARMING and boundary == self.boundary < evidence.horizon:
            self.arming = Arming.ARMED

    def decide(self, instance: Any, *, alone: bool) -> None:
        """End the wait with an instance, if the predicate agrees.

        Args:
            instance: The row; ``None`` where it is gone.
            alone: Whether nobody else gets that instance: only then may it enter a session.
        """
        if instance is None:
            self.fail(NotFoundError(self.rows.model, self.key_by_name, deleted=True))
            return
        try:
            holds = self.predicate is None or _holds(self.predicate, instance)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the predicate's: the caller's
            self.fail(as_result(error))
        else:
            self.unasked, self.asked_of = False, instance
            if holds:
                self.finish(instance if self.wants_instance or alone else None)

    def ask_again(self) -> None:
        """Ask the predicate about the row as it was read last: it may look at the clock."""
        if self.asked_of is not None and not self.over and not self.unasked:
            self.decide(self.asked_of, alone=False)

    def finish(self, instance: Any) -> None:
        """End the wait with its result."""
        if not self.result.done():
            self.result.set_result(instance)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        if not self.result.done():
            self.result.set_exception(error)

    def time_out(self, trouble: str = "") -> None:
        """End the wait because its time has passed; a predicate is asked for the last time."""
        self.ask_again()
        served = {
            Arming.ARMED: "armed: a notification would have ended it",
            Arming.ARMING: f"polled every {self.interval:g}s while it was being armed",
            Arming.UNARMED: f"polled every {self.interval:g}s",
        }[self.arming]
        served += f"; {trouble}" if trouble else ""
        self.fail(
            WaitTimeoutError(
                self.rows.model, self.key_by_name, timeout=self.timeout or 0.0, served=served
            )
        )

    @property
    def key_by_name(self) -> dict[str, object]:
        """The key for errors."""
        return self.rows.describe(self.key)


def _holds(predicate: Callable[[Any], object], instance: Any) -> bool:
    answer = predicate(instance)
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        expected = "a plain function: this one has returned something to be awaited"
        raise InvalidArgumentError("until", predicate, expected)
    return bool(answer)
