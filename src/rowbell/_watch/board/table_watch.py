"""A watch for any change of a class's tables, which ends with the first notification.

The caller's own load plays the part of the read that proves other watches. So once the proof is
made, any later snapshot shows every change that was not notified. ``proven`` says so. A
notification or a gap after that is ``change``. Then the watch leaves the board, and its
registration is deleted at once: otherwise every commit of the tables would send a notification, and
PostgreSQL lets only one such commit at a time through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from rowbell._watch.board.phases import Armed, Phase, Polled
from rowbell._watch.board.watch import Watch

if TYPE_CHECKING:
    from asyncio import Future

    from rowbell._watch.board.observation import Absence, Reading


class Change(StrEnum):
    """What has ended a table's watch."""

    NOTIFIED = "notified"
    MISSED = "missed"
    """Notifications may have been missed."""


@dataclass(eq=False, slots=True)
class TableWatch(Watch):
    """A watch for any change. Its result is whether it was proven.

    A proven one is over, so nothing is read for it, and stays on the board until ``change``.

    Attributes:
        change: What came after the proof, or instead of it.
    """

    change: Future[Change] = field(init=False)

    def __post_init__(self) -> None:
        Watch.__post_init__(self)
        self.change = self.result.get_loop().create_future()

    def observe(self, reading: Reading | Absence) -> bool:  # noqa: ARG002  # it has no values
        """A read brings evidence only."""
        return False

    def moved(self, before: Phase, after: Phase) -> None:
        """The watch has moved from one phase to another."""
        if isinstance(after, Armed):
            self.finish(True)  # noqa: FBT003
        elif isinstance(before, Armed) or (
            isinstance(after, Polled) and not isinstance(before, Polled)
        ):
            self._end(Change.MISSED)

    def notified(self) -> bool:
        """A table has changed. Nothing is to be read."""
        self._end(Change.NOTIFIED)
        return False

    def _end(self, change: Change) -> None:
        if not self.change.done():
            self.change.set_result(change)
        self.finish(False)  # noqa: FBT003

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        if not self.change.done():
            self.change.set_exception(error)
        Watch.fail(self, error)
