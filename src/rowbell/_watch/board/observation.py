"""What reads have found since a wait began, and whether that may end the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rowbell._watch.values.distinct import UNSEEN

if TYPE_CHECKING:
    from rowbell._watch.request import WaitRequest
    from rowbell._watch.rows.evidence import Evidence


class Reading(NamedTuple):
    """A row as one read has found it.

    Attributes:
        values: The values of the watched columns, in the request's order.
        until: The value of the SQL expression ``until``.
        instance: The row as an instance that belongs to no session, if the read loaded it.
        evidence: What the proof needs, if it was requested.
        is_shared: Whether other watches get the same instance.
    """

    values: tuple[Any, ...]
    until: bool = False
    instance: Any = None
    evidence: Evidence | None = None
    is_shared: bool = False


class Absence(NamedTuple):
    """A row that one read has not found.

    Attributes:
        evidence: What the proof needs, if it was requested and the row can be armed.
    """

    evidence: Evidence | None = None


class Observation:
    """What one wait has seen of its row.

    Args:
        request: What the wait asks for.

    Attributes:
        baseline: The watched values of the first read, or those that the caller gave. With
            ``until``, those of the last read: when they change, the predicate is called again.
        is_begun: Whether the values that the caller gave have been made the baseline.
        is_found: Whether a read has found the row.
        is_unchanged: Whether the last read found the values of the baseline.
        predicate_is_due: Whether the predicate must be called with the last reading.
        asked_of: The instance that the predicate was last called with.
        is_absent: Whether the row, as it was last seen, did not exist. Its appearance is a change.
    """

    __slots__ = (
        "_request",
        "asked_of",
        "baseline",
        "is_absent",
        "is_begun",
        "is_found",
        "is_unchanged",
        "predicate_is_due",
    )

    def __init__(self, request: WaitRequest) -> None:
        self._request = request
        self.baseline: tuple[Any, ...] = (UNSEEN,) * len(request.columns)
        self.is_begun: bool = False
        self.is_found: bool = False
        self.is_unchanged: bool = False
        self.predicate_is_due: bool = True
        self.asked_of: Any = None
        self.is_absent: bool = request.is_absent

    def begin(self, baseline: tuple[Any, ...]) -> None:
        """Begin with the values that the caller gave, in the form in which reads return them."""
        self.baseline, self.is_begun = baseline, True

    def add(self, reading: Reading) -> bool:
        """Add what a read found; return whether it may end the wait."""
        changed = self.compare(reading.values) or self.is_absent
        self.is_found, self.is_unchanged = True, not changed
        if self._request.until is None:
            return changed
        self.baseline, self.is_absent = reading.values, False
        if self._request.condition is not None:
            return reading.until
        # It stays due until the predicate has returned: loading the instance may fail.
        self.predicate_is_due |= changed
        return self.predicate_is_due

    def miss(self) -> None:
        """A read has not found the row."""
        self.is_absent, self.is_unchanged, self.asked_of = True, self.is_absent, None

    def compare(self, values: tuple[Any, ...]) -> bool:
        """Whether the values differ from the baseline. The first reading fills in unseen values."""
        before = self.baseline
        if not self.is_found:
            self.baseline = tuple(
                new if old is UNSEEN else old for old, new in zip(before, values, strict=True)
            )
        return self._request.rows.differ(self._request.columns, before, values)
