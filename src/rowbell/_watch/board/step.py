"""One step of following a row: from the state that was yielded last to the next one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rowbell._watch.board.watch import Watch, holds
from rowbell._watch.failures import as_result
from rowbell._watch.values.forms import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rowbell._watch.board.observation import Reading
    from rowbell._watch.rows.column_forms import ColumnForms


class Step(NamedTuple):
    """The end of a step.

    Attributes:
        instance: The row.
        values: The watched values that belong to it, in their forms: the next baseline.
        is_news: Whether it differs from the baseline.
        is_last: Whether ``until`` holds.
    """

    instance: Any
    values: tuple[Any, ...]
    is_news: bool
    is_last: bool


@dataclass(eq=False, slots=True)
class StepWatch(Watch):
    """A watch that ends with each change of its row, and when ``until`` holds.

    Attributes:
        is_first: Whether nothing was seen before. Then the first reading is news.
        absence_is_news: Whether the step ends, too, when the row does not exist any more.
    """

    is_first: bool = False
    absence_is_news: bool = False
    _condition_holds: bool = field(init=False, default=False)
    _values: tuple[Any, ...] = field(init=False, default=())

    def observe(self, reading: Reading | None) -> bool:
        """Add what a read found; return whether it may end the step."""
        if reading is None:
            return Watch.observe(self, reading)
        observation = self.observation
        changed = observation.compare(reading.values) or self.is_first or observation.is_absent
        observation.is_found, observation.is_unchanged = True, not changed
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
        is_last = self._condition_holds
        try:
            if predicate is not None:
                is_last = holds(predicate, instance)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the caller's predicate may raise anything
            self.fail(as_result(error))
            return
        observation.predicate_is_due, observation.asked_of = False, instance
        is_news = not observation.is_unchanged
        if is_news or is_last:
            self.finish(Step(instance, self._belonging(instance), is_news, is_last))

    def _miss(self, *, deleted: bool) -> None:
        is_news = self.is_first or not self.observation.is_absent
        Watch._miss(self, deleted=deleted)  # noqa: SLF001  # it is the base class
        if self.absence_is_news and is_news and not self.is_over:
            self.finish(Step(None, (), is_news=True, is_last=False))

    def _belonging(self, instance: Any) -> tuple[Any, ...]:
        """The values of the instance, which may have been loaded after the values were read."""
        forms, loaded = self.request.rows.forms, vars(instance)
        return tuple(
            read if (known := _known(forms, name, loaded)) is UNKNOWN else known
            for name, read in zip(self.request.columns, self._values, strict=True)
        )


def _known(forms: ColumnForms, name: str, loaded: Mapping[str, Any]) -> object:
    return forms.known_read(name, loaded[name]) if name in loaded else UNKNOWN
