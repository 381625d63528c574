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
        pinged: When its last ping arrived, or its first message.
        begun: When it began.
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
    begun: float = 0.0
    public: str = ""
    received: int = 1
    sent: int = 0
    listener: int | None = None
    tables: dict[int, TableEntry] = field(default_factory=dict[int, TableEntry])
    rows: dict[RowId, Columns] = field(default_factory=dict["RowId", "Columns"])
    row_set: RowSet = field(default_factory=RowSet)
    refused: list[messages.Refused] = field(default_factory=list["messages.Refused"])

    def __post_init__(self) -> None:
        self.begun = self.pinged
        self.public = hashlib.sha256(self.secret.encode()).hexdigest()

    def want(self, tables: dict[int, TableEntry], rows: Iterable[tuple[RowId, Columns]]) -> bool:
        """It has asked for rows.

        Args:
            tables: All tables that it watches now, by oid.
            rows: The rows, each with the columns that it watches.

        Returns:
            Whether each row has its table, with the columns that are watched in it. They are what
            the rights are checked for.
        """
        wanted = dict(rows)
        for row_id, columns in wanted.items():
            entry = tables.get(row_id.table_oid)
            if entry is None or not (columns or frozenset()) <= entry.columns:
                return False
        self.rows.update(wanted)
        self.row_set.add(wanted)
        needed = {row_id.table_oid for row_id in self.rows}
        for oid, before in self.tables.items():
            if oid in needed and (oid not in tables or not before.columns <= tables[oid].columns):
                return False
        self.tables = {oid: entry for oid, entry in tables.items() if oid in needed}
        return True

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
        self._by_peer: dict[Peer, Session] = {}
        self._admitted = 0

    def __len__(self) -> int:
        return len(self._by_secret)

    def __contains__(self, session: Session) -> bool:
        return self._by_secret.get(session.secret) is session

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_secret.values()))

    @property
    def admitted(self) -> int:
        """How many have introduced themselves."""
        return self._admitted

    def admit(self, session: Session, listener: int) -> None:
        """A session has introduced itself; this is the listener of its role."""
        if session in self and session.listener is None:
            session.listener = listener
            self._admitted += 1

    def add(self, session: Session) -> None:
        """Add a session."""
        self._by_secret[session.secret] = session
        self._by_public[session.public] = session
        self._by_peer[session.peer] = session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        self._admitted -= session in self and session.listener is not None
        self._by_secret.pop(session.secret, None)
        self._by_public.pop(session.public, None)
        self._by_peer.pop(session.peer, None)

    def find(self, secret: str) -> Session | None:
        """The session with this ID."""
        return self._by_secret.get(secret)

    def introduced(self, public: str) -> Session | None:
        """The session whose ID has this hash."""
        return self._by_public.get(public)

    def at(self, peer: Peer) -> Session | None:
        """The session of the process that is reached there."""
        return self._by_peer.get(peer)
