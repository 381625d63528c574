"""Which rows must be registered in ``rowbell.registration``, for which watches, and which are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowbell._watch.board.watch import Watch
from rowbell._watch.database.tables import Columns, WatchedTable
from rowbell._watch.values.key_hash import RowId

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Committed:
    """A registration that is committed.

    Attributes:
        columns: The columns that it names.
        boundary: A transaction ID that was assigned after it was committed.
    """

    columns: Columns
    boundary: int


@dataclass(eq=False, slots=True)
class Registration:
    """One row of ``rowbell.registration``, either wanted or committed.

    Attributes:
        row_id: The row id in it.
        watches: The watches that need it, each with the columns that it watches in that table.
        committed: What is committed; ``None`` before that.
        unused_since: When the last watch left it; ``None`` while a watch needs it.
        left_by: The class and key of the last watch that left it.
    """

    row_id: RowId
    watches: dict[Watch, Columns] = field(default_factory=dict[Watch, Columns])
    committed: Committed | None = None
    unused_since: float | None = None
    left_by: Hashable = None

    @property
    def wanted(self) -> Columns:
        """The columns of all its watches, and those that are committed.

        It never narrows: a new watch may already rely on the committed columns.
        """
        union: set[str] = set()
        committed = [] if self.committed is None else [self.committed.columns]
        for columns in (*committed, *self.watches.values()):
            if columns is None:
                return None
            union |= columns
        return frozenset(union)

    def covers(self, watch: Watch) -> bool:
        """Whether the committed columns include all columns that the watch watches."""
        if self.committed is None:
            return False
        columns, covered = self.watches[watch], self.committed.columns
        return covered is None or (columns is not None and columns <= covered)


class Registrations:
    """The registrations of one watcher, by row id."""

    def __init__(self) -> None:
        self._by_id: dict[RowId, Registration] = {}
        self._by_table: dict[int, set[Registration]] = {}
        self._tables: dict[int, tuple[WatchedTable, Columns]] = {}
        self._wanted: set[Registration] = set()
        self._unused: set[Registration] = set()
        self._spent: set[Registration] = set()
        self._left: dict[Hashable, tuple[RowId, ...]] = {}

    def row_ids_of(self, watch: Watch) -> tuple[RowId, ...]:
        """The row ids under which an earlier wait for the row has left it registered.

        A read has to confirm them: what the key means may have changed. Empty if there are none.
        """
        return self._left.get(_row_of(watch), ())

    def join(self, watch: Watch) -> list[Registration]:
        """Add a watch to the registrations of its row ids; return those that do not cover it."""
        rows, missing = watch.request.rows, list[Registration]()
        columns = rows.registered(watch.request.columns)
        for row_id, own, table in zip(watch.row_ids, columns, rows.watched_tables, strict=True):
            oid = row_id.table_oid
            # Of two models of a table, one may need more of its triggers.
            kept = self._tables.get(oid, (table, None))[0]
            needed = kept if kept.inserts and not table.inserts else table
            self._tables[oid] = (needed, self._with(oid, own))
            registration = self._by_id.get(row_id)
            if registration is None:
                registration = self._by_id[row_id] = Registration(row_id)
                self._by_table.setdefault(oid, set()).add(registration)
            registration.watches[watch] = own
            registration.unused_since = None
            self._unused.discard(registration)
            self._spent.discard(registration)
            if not registration.covers(watch):
                missing.append(registration)
        return missing

    def _with(self, oid: int, columns: Columns) -> Columns:
        """All columns that were ever watched in that table, and these."""
        if oid not in self._tables:
            return columns
        before = self._tables[oid][1]
        return None if columns is None or before is None else before | columns

    def leave(self, watch: Watch, now: float) -> None:
        """Remove a watch. A registration that no watch needs is kept for a while."""
        row = _row_of(watch) if watch.row_ids else None
        for registration in self.of(watch):
            del registration.watches[watch]
            if not registration.watches:
                registration.unused_since = now
                (self._spent if registration.row_id.is_whole_table else self._unused).add(
                    registration
                )
            if registration.left_by != row:
                self._left.pop(registration.left_by, None)
                registration.left_by = row
        if row is not None:
            self._left[row] = watch.row_ids

    def of(self, watch: Watch) -> list[Registration]:
        """The registrations that a watch needs."""
        # Two of its tables may be one, for example by a schema_translate_map.
        return list(dict.fromkeys(self._by_id[row_id] for row_id in watch.row_ids))

    def all(self) -> list[Registration]:
        """All registrations."""
        return list(self._by_id.values())

    def of_table(self, oid: int) -> list[Registration]:
        """The registrations of one table's rows."""
        return list(self._by_table.get(oid, ()))

    def watches_of(self, table_oid: int | None, keys: Iterable[int] | None) -> list[Watch]:
        """The watches that a notification concerns.

        Args:
            table_oid: The table; ``None`` for all.
            keys: The hashes of the rows' keys; ``None`` for all rows.
        """
        if table_oid is None:
            concerned = self.all()
        elif keys is None:
            concerned = self.of_table(table_oid)
        else:
            row_ids = (RowId(table_oid, key) for key in keys)
            concerned = [self._by_id[row_id] for row_id in row_ids if row_id in self._by_id]
        return list({watch: None for one in concerned for watch in one.watches})

    def tables(self, more: Iterable[int]) -> dict[int, tuple[WatchedTable, Columns]]:
        """Each table here and each of ``more``, with the columns that are watched in it."""
        return {oid: self._tables[oid] for oid in {*self._by_table, *more}}

    def want(self, registration: Registration) -> None:
        """Have a row registered."""
        self._wanted.add(registration)

    def take_wanted(self) -> list[tuple[Registration, Columns]]:
        """The registrations that must be committed now, each with its columns.

        Not those that were committed meanwhile, for another watch: that would be a needless gap.
        """
        missing = [one for one in self._wanted if not all(map(one.covers, one.watches))]
        wanted = [(one, one.wanted) for one in missing]
        self._wanted.clear()
        return wanted

    def take_unused(self, before: float) -> list[RowId]:
        """Remove the registrations that no watch has needed since then; return their row ids."""
        unused = [
            one
            for one in self._unused
            if one.unused_since is not None and one.unused_since <= before
        ]
        return self._removed(unused)

    @property
    def has_spent(self) -> bool:
        """Whether registrations of whole tables are no longer needed."""
        return bool(self._spent)

    def take_spent(self) -> list[RowId]:
        """Remove those at once: each would make every commit of its table send a notification."""
        return self._removed(list(self._spent))

    def _removed(self, registrations: Sequence[Registration]) -> list[RowId]:
        for registration in registrations:
            oid = registration.row_id.table_oid
            self._unused.discard(registration)
            self._spent.discard(registration)
            self._wanted.discard(registration)
            self._left.pop(registration.left_by, None)
            del self._by_id[registration.row_id]
            self._by_table[oid].discard(registration)
            if not self._by_table[oid]:
                del self._by_table[oid]
        return [registration.row_id for registration in registrations]

    def clear(self) -> None:
        """Remove everything: the connection that it was registered for is closed."""
        for each in (self._by_id, self._by_table, self._wanted, self._unused, self._left):
            each.clear()
        self._spent.clear()


def _row_of(watch: Watch) -> Hashable:
    """The row that a watch waits for, by its class and key; ``None`` if the key has no hash."""
    key = watch.request.key
    try:
        hash(key)
    except TypeError:
        return None
    return watch.request.rows, key
