"""One step of following a row: from the state that was delivered last to the next one."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rowbell._watch.board.observation import Absence
from rowbell._watch.board.watch import Watch, holds
from rowbell._watch.failures import as_result

if TYPE_CHECKING:
    from rowbell._watch.board.observation import Reading
    from rowbell._watch.request import WaitRequest


class Step(NamedTuple):
    """The end of a step.

    Attributes:
        instance: The row; ``None`` if it does not exist.
        values: The watched values that belong to it, in their forms.
        is_news: Whether it differs from the state that was delivered last.
        is_last: Whether ``until`` holds.
    """

    instance: Any
    values: tuple[Any, ...] | None
    is_news: bool
    is_last: bool


@dataclass(eq=False, slots=True)
class StepWatch(Watch):
    """A watch that ends with each change of its row, and when ``until`` holds.

    Attributes:
        is_first: Whether nothing was seen before. Then the first reading is news.
        absence_is_news: Whether the step ends, too, when the row does not exist any more.
        callers_error: The error of the caller's predicate, if it has raised one.
    """

    is_first: bool = False
    absence_is_news: bool = False
    callers_error: BaseException | None = field(init=False, default=None)
    _condition_holds: bool = field(init=False, default=False)
    _values: tuple[Any, ...] = field(init=False, default=())

    @property
    def expects_news(self) -> bool:
        """Whether its next reading ends it, so that the instance is loaded with the values."""
        return self.is_first

    @property
    def needs_one_snapshot(self) -> bool:
        """Whether its instance must be of the snapshot that the values are of."""
        return True

    def observe(self, reading: Reading | Absence) -> bool:
        """Add what a read found; return whether it may end the step."""
        if isinstance(reading, Absence):
            return Watch.observe(self, reading)
        observation = self.observation
        changed = observation.compare(reading.values) or self.is_first or observation.is_absent
        observation.is_found, observation.is_unchanged = True, not changed
        observation.predicate_is_due |= changed
        self._condition_holds = self.request.condition is not None and reading.until
        self._values = reading.values
        asks = self.request.predicate is not None and observation.predicate_is_due
        return changed or self._condition_holds or asks

    def decide(self, instance: Any, *, alone: bool) -> None:
        """End the step with an instance, if it is news or ``until`` holds."""
        if instance is None:
            Watch.decide(self, instance, alone=alone)
            return
        observation, predicate = self.observation, self.request.predicate
        if self.request.again is not None and type(instance) is not self.request.rows.model:
            # Its own class may have columns that were not loaded, so nobody is asked about it.
            self.finish(Step(instance, self._values, is_news=True, is_last=False))
            return
        is_last = self._condition_holds
        try:
            if predicate is not None:
                is_last = holds(predicate, instance)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the caller's predicate may raise anything
            self.callers_error = as_result(error)
            self.fail(self.callers_error)
            return
        observation.predicate_is_due, observation.asked_of = False, instance
        is_news = not observation.is_unchanged
        if is_news or is_last:
            self.finish(Step(instance, self._values, is_news, is_last))

    def _miss(self, *, deleted: bool) -> None:
        is_news = self.is_first or not self.observation.is_absent
        Watch._miss(self, deleted=deleted)  # noqa: SLF001  # it is the base class
        if self.absence_is_news and is_news and not self.is_over:
            self.finish(Step(None, None, is_news=True, is_last=False))


class Seen:
    """What a follow has seen of a row, from which its next step begins.

    Args:
        request: The request of the first step.

    Attributes:
        is_found: Whether a read has found the row.
    """

    def __init__(self, request: WaitRequest) -> None:
        self.is_found = False
        self._values: tuple[Any, ...] | None = None
        self._is_first = request.since is None
        self._is_absent = request.is_absent

    def next_watch(self, request: WaitRequest, *, absence_is_news: bool) -> StepWatch:
        """The watch of the next step."""
        watch = StepWatch(
            request,
            math.inf,
            asyncio.get_running_loop().create_future(),
            wants_instance=True,
            never_armed=request.never_armed,
            is_first=self._is_first,
            absence_is_news=absence_is_news,
        )
        if self._values is not None:
            watch.observation.begin(self._values)
        watch.observation.is_absent = self._is_absent
        return watch

    def deliver(self, step: Step) -> None:
        """A step is delivered to the caller."""
        self._values, self._is_first = step.values, False
        self._is_absent = step.instance is None
        self.is_found |= step.instance is not None

    def keep(self, watch: StepWatch) -> None:
        """A watch is replaced, and its end was not delivered. What it has seen still counts."""
        observation = watch.observation
        self.is_found |= observation.is_found
        self._is_absent = observation.is_absent
        if observation.is_found and not watch.is_first:
            self._values = observation.baseline

    def begin_again(self) -> None:
        """The row has another class, with other columns: its next reading is news."""
        self._values, self._is_first, self._is_absent = None, True, False
