"""What reads have shown of a row since its wait began, and whether that may end the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rowbell._watch.values.distinct import UNSEEN

if TYPE_CHECKING:
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.rows.evidence import Evidence


class Reading(NamedTuple):
    """A row as one read found it.

    Attributes:
        values: The values of the watched columns, in the request's order.
        until: What the SQL expression ``until`` said.
        instance: The row as an instance of no session, where the read loaded it.
        evidence: What the proof needs, where it was asked for.
        is_shared: Whether other watches get the same instance.
    """

    values: tuple[Any, ...]
    until: bool = False
    instance: Any = None
    evidence: Evidence | None = None
    is_shared: bool = False


class Observation:
    """What one wait has seen of its row.

    Args:
        request: What the wait asks for.

    Attributes:
        baseline: The watched values as they were seen first, or as the caller gave them. With
            ``until`` those of the last read: a predicate is asked again when they have changed.
        is_begun: Whether what the caller last saw has been made the baseline.
        is_found: Whether a read has found the row.
        is_unchanged: Whether the last read found the values of the baseline.
        predicate_is_due: Whether the predicate is to be asked about the last reading.
        asked_of: The instance that the predicate was asked about last.
    """

    __slots__ = (
        "_request",
        "asked_of",
        "baseline",
        "is_begun",
        "is_found",
        "is_unchanged",
        "predicate_is_due",
    )

    def __init__(self, request: WaitRequest) -> None:
        self._request = request
        self.baseline: tuple[Any, ...] = (UNSEEN,) * len(request.columns)
        self.is_begun = False
        self.is_found = False
        self.is_unchanged = False
        self.predicate_is_due = True
        self.asked_of: Any = None

    def begin(self, baseline: tuple[Any, ...]) -> None:
        """Begin with what the caller last saw, in the form in which reads return it."""
        self.baseline, self.is_begun = baseline, True

    def add(self, reading: Reading) -> bool:
        """Add what a read found; returns whether it may end the wait."""
        changed = self._compare(reading.values)
        self.is_found, self.is_unchanged = True, not changed
        if self._request.until is None:
            return changed
        self.baseline = reading.values
        if self._request.condition is not None:
            return reading.until
        # It stays due until the predicate has answered: loading the instance may fail.
        self.predicate_is_due |= changed
        return self.predicate_is_due

    def _compare(self, values: tuple[Any, ...]) -> bool:
        """Whether the values differ from the baseline; the first reading fills its gaps."""
        before = self.baseline
        if not self.is_found:
            self.baseline = tuple(
                new if old is UNSEEN else old for old, new in zip(before, values, strict=True)
            )
        return self._request.rows.differ(self._request.columns, before, values)
