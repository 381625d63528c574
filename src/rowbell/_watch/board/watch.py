"""One wait for one row: its request, what was seen of the row, its phase, and its result."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rowbell._watch.board.observation import Absence, Observation, Reading
from rowbell._watch.board.phases import Armed, Phase, Polled, Proving
from rowbell._watch.failures import as_result
from rowbell.errors import InvalidArgumentError, NotFoundError, WaitTimeoutError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

    from rowbell._watch.reasons import Reason
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.values.key_hash import RowId


@dataclass(eq=False, slots=True)
class Watch:
    """One wait for one row.

    Attributes:
        request: What the wait asks for.
        deadline: When its timeout has passed, on the event loop's clock; ``math.inf`` for never.
        result: The future of the result: the instance, ``None``, or the error.
        wants_instance: Whether the result must be an instance. Otherwise it is one only if the
            read that ended the wait has loaded it for this wait alone.
        never_armed: Why it can only be polled, whatever is installed; ``None`` if it can be armed.
        observation: What reads have found.
        phase: Whether it relies on notifications. Only ``Arming`` changes it.
        was_notified: Whether a notification caused the last read that may end it.
        row_ids: The row ids in the tables of its class, once a read has returned them.
    """

    request: WaitRequest
    deadline: float
    result: Future[Any]
    wants_instance: bool = False
    never_armed: Reason | None = None
    observation: Observation = field(init=False)
    phase: Phase = field(init=False)
    was_notified: bool = field(init=False, default=False)
    row_ids: tuple[RowId, ...] = ()

    def __post_init__(self) -> None:
        self.observation = Observation(self.request)
        self.phase = Polled(0.0, self.never_armed)

    @property
    def is_over(self) -> bool:
        """Whether the wait has ended."""
        return self.result.done()

    @property
    def expects_news(self) -> bool:
        """Whether its next reading ends it, so that the instance is loaded with the values."""
        return False

    @property
    def needs_one_snapshot(self) -> bool:
        """Whether its instance must be of the snapshot that the values are of."""
        return self.wants_instance and self.request.condition is not None

    @property
    def key_by_name(self) -> dict[str, object]:
        """The primary key by attribute, for errors."""
        return self.request.rows.describe(self.request.key)

    def observe(self, reading: Reading | Absence) -> bool:
        """Add what a read found; return whether it may end the wait.

        If the row does not exist, the wait ends here. Otherwise the caller ends it, by ``decide``.
        """
        if isinstance(reading, Absence):
            self._miss(deleted=self.observation.is_found)
            return False
        return self.observation.add(reading)

    def decide(self, instance: Any, *, alone: bool) -> None:
        """End the wait with an instance, if the predicate is true.

        Args:
            instance: The row; ``None`` if it does not exist any more.
            alone: Whether no other wait gets this instance: only then may it enter a session.
        """
        if instance is None:
            self._miss(deleted=True)
            return
        predicate, observation = self.request.predicate, self.observation
        try:
            is_true = predicate is None or holds(predicate, instance)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the caller's predicate may raise anything
            self.fail(as_result(error))
        else:
            observation.predicate_is_due, observation.asked_of = False, instance
            if is_true:
                self.finish(instance if self.wants_instance or alone else None)

    def ask_again(self) -> None:
        """Call the predicate with the last reading again: its result may depend on the time."""
        observation = self.observation
        if observation.asked_of is None or observation.predicate_is_due or self.is_over:
            return
        self.decide(observation.asked_of, alone=False)

    def moved(self, before: Phase, after: Phase) -> None:
        """The watch has moved from one phase to another. For a row, only reads matter."""

    def notified(self) -> bool:
        """The row may have changed. Return whether it is to be read.

        A watch that is over only keeps its row registered, for the next step of a follow.
        """
        return not self.is_over

    def finish(self, instance: Any) -> None:
        """End the wait with its result."""
        if not self.result.done():
            self.result.set_result(instance)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        if not self.result.done():
            self.result.set_exception(error)

    def time_out(self, problem: str = "") -> None:
        """End the wait because its timeout has passed. A predicate is called one last time.

        Args:
            problem: What was wrong with the last read, for the error.
        """
        self.ask_again()
        served = f"polled every {self.request.interval:g}s"
        if isinstance(self.phase, Armed):
            served = "armed: a notification would have ended it"
        elif isinstance(self.phase, Proving):
            served += " while it was being armed"
        served += f"; {problem}" if problem else ""
        self.fail(
            WaitTimeoutError(
                self.request.rows.model,
                self.key_by_name,
                timeout=self.request.timeout or 0.0,
                served=served,
            )
        )

    def _miss(self, *, deleted: bool) -> None:
        """The row does not exist: the wait goes on if the caller said so."""
        if self.request.waits_for_missing:
            self.observation.miss()
        else:
            self.fail(self._not_found(deleted=deleted))

    def _not_found(self, *, deleted: bool) -> NotFoundError:
        return NotFoundError(self.request.rows.model, self.key_by_name, deleted=deleted)


def holds(predicate: Callable[[Any], object], instance: Any) -> bool:
    """Whether a predicate is true for an instance."""
    answer = predicate(instance)
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        expected = "a plain function: this one has returned an awaitable"
        raise InvalidArgumentError("until", predicate, expected)
    return bool(answer)
