"""The sessions of the processes at a relay, and what each has registered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.database.tables import TableEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rowbell._watch.database.tables import Columns
    from rowbell._watch.values.key_hash import RowId
    from rowbell._watch.wire import messages
    from rowbell._watch.wire.transport import Peer


@dataclass(eq=False, slots=True)
class Session:
    """The session of one process.

    Attributes:
        secret: Its ID, which only the process and the relay know.
        peer: The way to the process.
        pinged: When its last ping arrived.
        public: The hash of its ID.
        received: The number of its last request.
        sent: The number of the last message to it.
        listener: The number of its role's listener; ``None`` before it was admitted.
        tables: Its tables, by oid.
        rows: The rows that it has asked for, each with the columns that it watches.
        row_set: The same rows, with their checksum.
        refused: What it was last told of tables that cannot notify.
    """

    secret: str
    peer: Peer
    pinged: float
    public: str = ""
    received: int = 1
    sent: int = 0
    listener: int | None = None
    tables: dict[int, TableEntry] = field(default_factory=dict[int, TableEntry])
    rows: dict[RowId, Columns] = field(default_factory=dict["RowId", "Columns"])
    row_set: RowSet = field(default_factory=RowSet)
    refused: list[messages.Refused] = field(default_factory=list["messages.Refused"])

    def __post_init__(self) -> None:
        self.public = hashlib.sha256(self.secret.encode()).hexdigest()

    def want(self, tables: Iterable[TableEntry], rows: Iterable[tuple[RowId, Columns]]) -> None:
        """It has asked for rows. The tables are all that it watches now."""
        wanted = dict(rows)
        self.rows.update(wanted)
        self.row_set.add(wanted)
        needed = {row_id.table_oid for row_id in self.rows}
        self.tables = {entry.oid: entry for entry in tables if entry.oid in needed}

    def release(self, row_ids: Iterable[RowId]) -> list[RowId]:
        """It no longer needs these rows; return those that it had."""
        had = [row_id for row_id in row_ids if self.rows.pop(row_id, ...) is not ...]
        self.row_set.discard(had)
        needed = {row_id.table_oid for row_id in self.rows}
        self.tables = {oid: entry for oid, entry in self.tables.items() if oid in needed}
        return had


class Sessions:
    """The sessions of all processes."""

    def __init__(self) -> None:
        self._by_secret: dict[str, Session] = {}
        self._by_public: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    def __contains__(self, session: Session) -> bool:
        return self._by_secret.get(session.secret) is session

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_secret.values()))

    def add(self, session: Session) -> None:
        """Add a session."""
        self._by_secret[session.secret] = session
        self._by_public[session.public] = session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        self._by_secret.pop(session.secret, None)
        self._by_public.pop(session.public, None)

    def find(self, secret: str) -> Session | None:
        """The session with this ID."""
        return self._by_secret.get(secret)

    def introduced(self, public: str) -> Session | None:
        """The session whose ID has this hash."""
        return self._by_public.get(public)

    def of(self, peer: Peer) -> list[Session]:
        """The sessions of a process."""
        return [session for session in self if session.peer == peer]
