"""The rows that are registered for all processes of one role, and which process needs which.

In the database it is one listener, with the role's rights and limits. A row that several processes
need is registered once, with the columns of all of them: each of them may SELECT all of those.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from asyncpg import PostgresError

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.refusals import refuse_other_session
from rowbell._watch.reasons import Reason
from rowbell._watch.values.key_hash import RowId
from rowbell._watch.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rowbell._watch.database.relay_calls import RelayCalls, TableAnswer
    from rowbell._watch.database.tables import Columns, TableEntry
    from rowbell.relay.session import Session

_RARELY: Final = 5
"""A table that cannot be looked at is looked at again after this many times as long."""

_ATTEMPTS: Final = 10
"""How often a registration is repeated while the tables' obstacles change."""


class RoleListener:
    """One listener of a relay.

    Args:
        number: Its number.
        calls: The calls on the relay's connection.
        backend_pid: The server process of that connection.
        clock: The time, in seconds.

    Attributes:
        number: As given.
        registered: The rows that are registered.
        has_news: Whether other tables cannot notify than before. Then the processes must be told: a
            row is no longer registered with the columns of those whose table cannot.
    """

    def __init__(
        self, number: int, calls: RelayCalls, backend_pid: int, clock: Callable[[], float]
    ) -> None:
        self.number: int = number
        self.registered: RowSet = RowSet()
        self.has_news: bool = False
        self._calls = calls
        self._backend_pid = backend_pid
        self._clock = clock
        self._needed: defaultdict[RowId, set[Session]] = defaultdict(set)
        self._by_table: defaultdict[int, dict[Session, int]] = defaultdict(dict)
        self._left: set[RowId] = set()
        self._obstacles: dict[TableEntry, str] = {}
        self._versions: dict[int, int | None] = {}
        self._names: dict[int, str] = {}
        self._changed: set[int] = set()
        self._aside: dict[TableEntry, float] = {}

    # -- which process needs which row

    def need(self, session: Session, row_ids: Iterable[RowId]) -> None:
        """A process needs rows. From now on it is notified of them, if they are registered."""
        for row_id in row_ids:
            if session not in self._needed[row_id]:
                self._needed[row_id].add(session)
                counts = self._by_table[row_id.table_oid]
                counts[session] = counts.get(session, 0) + 1

    def release(self, session: Session, row_ids: Iterable[RowId]) -> None:
        """A process no longer needs rows."""
        for row_id in row_ids:
            if session not in self._needed.get(row_id, ()):
                continue
            self._needed[row_id].discard(session)
            if not self._needed[row_id]:
                del self._needed[row_id]
                self._left.add(row_id)
            counts = self._by_table[row_id.table_oid]
            counts[session] -= 1
            if not counts[session]:
                del counts[session]
            if not counts:
                del self._by_table[row_id.table_oid]

    def concerned(
        self, table_oid: int | None, keys: Iterable[int] | None
    ) -> dict[Session, list[int] | None]:
        """The processes that a notification concerns, each with the hashes of its rows."""
        if table_oid is None:
            return {session: None for counts in self._by_table.values() for session in counts}
        if keys is None:
            return dict.fromkeys(self._by_table.get(table_oid, ()))
        concerned: defaultdict[Session, list[int]] = defaultdict(list)
        for key in keys:
            for session in self._needed.get(RowId(table_oid, key), ()):
                concerned[session].append(key)
        return dict(concerned)

    @property
    def sessions(self) -> set[Session]:
        """The processes that need any row."""
        return {session for counts in self._by_table.values() for session in counts}

    # -- registrations

    async def register(
        self, sessions: Iterable[Session], row_ids: Iterable[RowId]
    ) -> tuple[int, frozenset[RowId]] | None:
        """Register rows, also those that are registered already, and then take a boundary.

        It is repeated until the tables' obstacles are those that it was made for: a row is
        registered with the columns of those processes whose tables have none.

        Args:
            sessions: The processes that have asked.
            row_ids: The rows that they have asked for.

        Returns:
            The boundary, and the rows that are not registered; ``None`` if the role may not have
            that many rows.

        Raises:
            CannotNotifyError: The obstacles change all the time.
        """
        asking, wanted = list(sessions), list(dict.fromkeys(row_ids))
        for _ in range(_ATTEMPTS):
            entries = self._entries(asking, wanted)
            rows = [(one, columns) for one in wanted for columns in self._columns(one)]
            answers, is_over_limit = await self._calls.register(self.number, entries, rows)
            is_settled = self._take_in(entries, answers)
            if is_over_limit:
                return None
            boundary, missing = await self._calls.registered(self.number, wanted)
            self.registered.discard(missing)
            self.registered.add({*wanted}.difference(missing))
            if is_settled:
                return boundary, frozenset(missing)
        raise CannotNotifyError(Reason.CONNECTION_LOST, "the rights on a table change all the time")

    def _entries(self, asking: Iterable[Session], wanted: Iterable[RowId]) -> list[TableEntry]:
        """The tables of these rows, as all processes watch them that need any of the rows."""
        oids = {row_id.table_oid for row_id in wanted}
        concerned = set(asking).union(*(self._needed.get(one, ()) for one in wanted))
        entries = {s.tables[oid] for s in concerned for oid in oids if oid in s.tables}
        return list(entries - self._aside.keys())

    def set_aside(self, asking: Iterable[Session], row_ids: Iterable[RowId], took: float) -> None:
        """The tables of these rows cannot be looked at, for example because one is locked.

        Args:
            asking: The processes that have asked for them.
            row_ids: The rows.
            took: How long the attempt took, in seconds.
        """
        for entry in self._entries(asking, list(row_ids)):
            self._set_aside(entry, took)

    def _set_aside(self, entry: TableEntry, took: float) -> None:
        self._aside[entry] = self._clock() + _RARELY * took
        self._set_obstacle(entry, Reason.CONNECTION_LOST.value)

    def _columns(self, row_id: RowId) -> list[Columns]:
        """The columns of all processes that need a row, as one; none if no table can notify."""
        union: set[str] = set()
        has_any = False
        for session in self._needed.get(row_id, ()):
            entry = session.tables.get(row_id.table_oid)
            if entry is None or entry in self._obstacles:
                continue
            columns = session.rows.get(row_id)
            if columns is None:
                return [None]
            union |= columns
            has_any = True
        return [frozenset(union)] if has_any else []

    async def unregister(self) -> None:
        """Unregister the rows that no process needs any more."""
        left, self._left = self._left, set()
        unneeded = [one for one in left if one not in self._needed and one in self.registered]
        if unneeded:
            await self._calls.unregister(self.number, unneeded)
            self.registered.discard(unneeded)

    # -- tables

    async def heartbeat(self) -> None:
        """Find out whether everything is registered, and how the tables are.

        Raises:
            CannotNotifyError: Registrations were deleted, or the session is another one.
        """
        wanted = {entry for each in self.sessions for entry in each.tables.values()}
        self._aside = {entry: due for entry, due in self._aside.items() if entry in wanted}
        entries = list(wanted - self._aside.keys())
        try:
            answer, answers = await self._calls.heartbeat(self.number, entries)
            refuse_other_session(answer, self._backend_pid, self.registered)
            self._take_in(entries, answers)
        except PostgresError:
            if self._calls.closed or not entries:
                raise
            await self._look_at_each(entries)
        now = self._clock()
        await self._look_at_each([entry for entry, due in self._aside.items() if due <= now])

    async def _look_at_each(self, entries: Iterable[TableEntry]) -> None:
        """Look at the tables one by one: a migration may have locked one of them."""
        for entry in entries:
            begun = self._clock()
            try:
                _, answers = await self._calls.heartbeat(self.number, [entry])
            except PostgresError:
                if self._calls.closed:
                    raise
                self._set_aside(entry, self._clock() - begun)
            else:
                self._aside.pop(entry, None)
                self._take_in([entry], answers)

    def _take_in(self, entries: Sequence[TableEntry], answers: Sequence[TableAnswer]) -> bool:
        """Process what the database says of tables; return whether it was known."""
        is_known = True
        for entry, answer in zip(entries, answers, strict=True):
            is_known &= (entry in self._obstacles) is (answer.obstacle is not None)
            self._set_obstacle(entry, answer.obstacle)
            if self._versions.setdefault(entry.oid, answer.version) != answer.version:
                self._versions[entry.oid] = answer.version
                self._changed.add(entry.oid)
        return is_known

    def _set_obstacle(self, entry: TableEntry, reason: str | None) -> None:
        if self._obstacles.get(entry) != reason:
            self.has_news = True
        if reason is None:
            self._obstacles.pop(entry, None)
        else:
            self._obstacles[entry] = reason

    def take_changed(self) -> set[int]:
        """The tables that have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    async def refused(self, session: Session) -> list[messages.Refused]:
        """The tables of a process that cannot notify."""
        refused: list[messages.Refused] = []
        for oid, entry in session.tables.items():
            if (reason := self._obstacles.get(entry)) is not None:
                refused.append(messages.Refused(oid, reason, await self.name(oid)))
        return refused

    async def name(self, oid: int) -> str:
        """A table's name, for a message."""
        if oid not in self._names:
            self._names[oid] = f"table {await self._calls.table_name(oid)}"
        return self._names[oid]
