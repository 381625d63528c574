"""Which rows are to stand in ``rowbell.registration``, for whom, and which do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowbell._watch.board.watch import Watch
from rowbell._watch.database.tables import Columns, WatchedTable

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(eq=False, slots=True)
class Interest:
    """One row of ``rowbell.registration``, wanted or registered.

    Attributes:
        name: The table's oid and the hash of the row's key.
        watches: Those that need it, each with the columns that it watches in that table.
        registered: The columns it was registered with, ``()`` while it is not.
        boundary: What was given out after the registration.
        idle_since: When the last watch left it.
    """

    name: tuple[int, int]
    watches: dict[Watch, Columns] = field(default_factory=dict[Watch, Columns])
    registered: Columns | tuple[()] = ()
    boundary: int = 0
    idle_since: float = math.inf

    @property
    def wanted(self) -> Columns:
        """The columns of all its watches together, and those that ring already.

        It never narrows while it stands: a watch may have come that relies on what rings.
        """
        if self.registered is None:
            return None
        union: set[str] = set(self.registered)
        for columns in self.watches.values():
            if columns is None:
                return None
            union |= columns
        return frozenset(union)

    def covers(self, columns: Columns) -> bool:
        """Whether a change of those columns rings already."""
        if isinstance(self.registered, tuple):
            return False
        return self.registered is None or (columns is not None and columns <= self.registered)


class Interests:
    """The rows that watches need registered, by the names that triggers have for them."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[int, int], Interest] = {}
        self._by_table: dict[int, set[Interest]] = {}
        self._tables: dict[int, tuple[WatchedTable, Columns]] = {}
        self._unregistered: set[Interest] = set()
        self._idle: set[Interest] = set()

    def join(self, watch: Watch) -> list[Interest]:
        """Enter a watch for the rows of its names; returns those to be registered for it."""
        rows, missing = watch.rows, list[Interest]()
        columns = rows.registered(watch.columns)
        for name, own, table in zip(watch.names, columns, rows.watched_tables, strict=True):
            self._tables[name[0]] = (table, self._with(name[0], own))
            interest = self._by_name.get(name)
            if interest is None:
                interest = self._by_name[name] = Interest(name)
                self._by_table.setdefault(name[0], set()).add(interest)
            interest.watches[watch] = own
            self._idle.discard(interest)
            if not interest.covers(own):
                missing.append(interest)
        return missing

    def _with(self, oid: int, columns: Columns) -> Columns:
        """All columns that were ever watched in that table, and these."""
        if oid not in self._tables:
            return columns
        before = self._tables[oid][1]
        return None if columns is None or before is None else before | columns

    def leave(self, watch: Watch, now: float) -> None:
        """A watch needs its rows no more; they stay for a while."""
        for interest in self.of(watch):
            del interest.watches[watch]
            if not interest.watches:
                interest.idle_since = now
                self._idle.add(interest)

    def of(self, watch: Watch) -> list[Interest]:
        """The rows that a watch needs."""
        return [self._by_name[name] for name in watch.names]

    def all(self) -> list[Interest]:
        """All rows."""
        return list(self._by_name.values())

    def of_table(self, relation: int) -> list[Interest]:
        """The rows of one table."""
        return list(self._by_table.get(relation, ()))

    def named(self, relation: int, keys: Iterable[int]) -> list[Interest]:
        """Those of the named rows that somebody needs."""
        names = ((relation, key) for key in keys)
        return [self._by_name[name] for name in names if name in self._by_name]

    def tables(self, more: Iterable[int]) -> dict[int, tuple[WatchedTable, Columns]]:
        """Each table here, and some more, with the columns that are watched in it."""
        return {oid: self._tables[oid] for oid in {*self._by_table, *more}}

    def want(self, interest: Interest) -> None:
        """Have a row registered."""
        self._unregistered.add(interest)

    def take_unregistered(self) -> list[tuple[Interest, Columns]]:
        """What is to be registered now, and with which columns."""
        wanted = [(i, i.wanted) for i in self._unregistered if i.watches]
        self._unregistered.clear()
        return wanted

    def take_idle(self, before: float) -> list[Interest]:
        """Forget and return the rows that nobody has needed since then."""
        idle = [interest for interest in self._idle if interest.idle_since <= before]
        for interest in idle:
            self._idle.discard(interest)
            self._unregistered.discard(interest)
            del self._by_name[interest.name]
            table = self._by_table[interest.name[0]]
            table.discard(interest)
            if not table:
                del self._by_table[interest.name[0]]
        return idle

    def clear(self) -> None:
        """Forget everything: the connection that it was registered for is gone."""
        for each in (self._by_name, self._by_table, self._unregistered, self._idle):
            each.clear()
