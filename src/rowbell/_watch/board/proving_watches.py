"""The watches that wait for their proof, for which the lock table may give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowbell._watch.board.phases import Phase, Proving

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rowbell._watch.board.watch import Watch


class ProvingWatches:
    """The watches of one watcher that are in the phase ``Proving``."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()

    def note(self, watch: Watch, phase: Phase | None) -> None:
        """A watch has entered a phase; ``None`` if it is over."""
        (self._watches.add if isinstance(phase, Proving) else self._watches.discard)(watch)

    def wanted(self) -> tuple[list[int], int] | None:
        """The tables whose writers are to be looked for, and the highest boundary among them."""
        boundaries: list[int] = []
        tables: set[int] = set()
        for watch in self._watches:
            phase = watch.phase
            if isinstance(phase, Proving) and not phase.writers_gone and not watch.is_over:
                boundaries.append(phase.boundary)
                tables.update(row_id.table_oid for row_id in watch.row_ids)
        return (sorted(tables), max(boundaries)) if boundaries else None

    def within(self, tables: Iterable[int]) -> list[Watch]:
        """The watches that concern only those tables."""
        chosen = set(tables)
        return [
            watch
            for watch in self._watches
            if {row_id.table_oid for row_id in watch.row_ids} <= chosen
        ]
