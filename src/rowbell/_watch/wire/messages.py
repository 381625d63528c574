"""The messages between a process and a relay. None contains anything of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

from rowbell._watch.database.tables import TableEntry
from rowbell._watch.values.key_hash import RowId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rowbell._watch.database.tables import Columns


Oid = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]{1,255}$")]


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The argument of a table's triggers, of any version."""

    version: Annotated[int, msgspec.Meta(ge=0, le=1_000)]
    key: dict[Name, Name | None]
    columns: list[Name] | None
    inserts: bool = False


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part of a message, written as an array."""


class Table(Part, frozen=True):
    """A watched table: its oid, the argument that its triggers must have, the watched columns."""

    oid: Oid
    options: str
    columns: list[Name]

    def __post_init__(self) -> None:
        _options.decode(self.options)

    @classmethod
    def of(cls, entry: TableEntry) -> Table:
        """The table of an entry."""
        return cls(entry.oid, entry.options.decode(), _names(entry.columns))

    @property
    def entry(self) -> TableEntry:
        """The entry, with which the database is asked."""
        return TableEntry(self.oid, self.options.encode(), frozenset(self.columns))


class Refused(Part, frozen=True):
    """A table that cannot notify: its oid, the reason, and its name."""

    oid: int
    reason: str
    name: str


class Message(msgspec.Struct, frozen=True, tag_field="is", omit_defaults=True):
    """A message."""


# -- from a process


class Hello(Message, frozen=True, tag="hello"):
    """Begin a session."""


class Register(Message, frozen=True, tag="register"):
    """Register rows.

    Attributes:
        tables: All tables that the process watches.
        columns: The lists of watched columns that occur; ``None`` is any column.
        rows: Each row: its table, the hash of its key, and the place of its list of columns.
    """

    tables: list[Table]
    columns: list[list[Name] | None]
    rows: list[tuple[Oid, Int64, Annotated[int, msgspec.Meta(ge=0)]]]

    @classmethod
    def of(cls, entries: Iterable[TableEntry], rows: Iterable[tuple[RowId, Columns]]) -> Register:
        """The message for these tables and rows."""
        places: dict[Columns, int] = {}
        named = [
            (row_id.table_oid, row_id.key_hash, places.setdefault(columns, len(places)))
            for row_id, columns in rows
        ]
        lists = [None if columns is None else _names(columns) for columns in places]
        return cls([Table.of(entry) for entry in entries], lists, named)

    def wanted(self) -> list[tuple[RowId, Columns]]:
        """The rows, each with its columns.

        Raises:
            IndexError: A row has no list.
        """
        lists = [None if columns is None else frozenset(columns) for columns in self.columns]
        return [(RowId(oid, key), lists[place]) for oid, key, place in self.rows]


class Unregister(Message, frozen=True, tag="unregister"):
    """The process no longer needs these rows."""

    rows: list[tuple[Oid, Int64]]


class TakeBoundary(Message, frozen=True, tag="boundary"):
    """Take a boundary: the process has missed messages, or a table has another name."""


class LookForWriters(Message, frozen=True, tag="writers"):
    """Which of these tables can no transaction below the boundary change any more?"""

    tables: list[Oid]
    boundary: Int64


class Ping(Message, frozen=True, tag="ping"):
    """The process lives. ``rows`` and ``checksum`` are of the rows that it relies on."""

    number: int
    rows: int
    checksum: int


class Leave(Message, frozen=True, tag="leave"):
    """End the session."""


FromProcess: TypeAlias = (
    Hello | Register | Unregister | TakeBoundary | LookForWriters | Ping | Leave
)


# -- from a relay


class Welcome(Message, frozen=True, tag="welcome"):
    """The session has begun. The process introduces itself, in the database, to this channel."""

    channel: str


class Admitted(Message, frozen=True, tag="admitted"):
    """The relay has received the ticket. ``server`` is when the server was started."""

    server: float


class Registered(Message, frozen=True, tag="registered"):
    """The answer to a ``Register``: the boundary; none if the role may not register more rows."""

    to: int
    refused: list[Refused]
    boundary: int | None


class Boundary(Message, frozen=True, tag="boundary"):
    """The answer to a ``TakeBoundary``."""

    to: int
    boundary: int


class WithoutWriters(Message, frozen=True, tag="writers"):
    """The answer to a ``LookForWriters``."""

    to: int
    tables: list[int]


class Changed(Message, frozen=True, tag="changed"):
    """Rows may have changed: of one table or of all, with these hashes or all."""

    table: int | None
    keys: list[int] | None


class Missed(Message, frozen=True, tag="missed"):
    """Notifications may have been missed: of these tables, or of all."""

    boundary: int
    detail: str
    tables: list[int] | None = None


class CannotNotify(Message, frozen=True, tag="refused"):
    """All of the process's tables that cannot notify."""

    refused: list[Refused]


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a ``Ping``.

    Attributes:
        number: The ping's number.
        polling: The shortest interval, in seconds, at which the process should poll its rows if it
            loses the relay: the other processes will do that too.
    """

    number: int
    polling: float = 0.0


class Ended(Message, frozen=True, tag="ended"):
    """The session has ended, or the relay does not know it. Its number is 0 then."""

    reason: str
    detail: str


FromRelay: TypeAlias = (
    Welcome
    | Admitted
    | Registered
    | Boundary
    | WithoutWriters
    | Changed
    | Missed
    | CannotNotify
    | Pong
    | Ended
)


def _names(columns: Iterable[str]) -> list[str]:
    """Names of columns, which may be instances of SQLAlchemy's ``quoted_name``."""
    return sorted(map(str, columns))


def rows_of(row_ids: Iterable[RowId]) -> list[tuple[int, int]]:
    """Row ids, as a message has them."""
    return [(oid, key) for oid, key in row_ids]


def row_id(row: tuple[int, int] | tuple[int, int, int]) -> RowId:
    """The row id of a row in a message."""
    return RowId(row[0], row[1])


_options: Final = msgspec.json.Decoder(_Options)
