"""The messages between a process and a relay, as JSON. None contains anything of a row.

Each message travels in an envelope. A ``Request``, from the process, has the session's secret ID
and a number. An ``Answer``, from the relay, has the relay's term and a number. Numbers begin with 1
and have no holes: a hole means that a message was lost.

Every version of rowbell can read ``Head``, and a relay understands its own version and the one
before. So processes of two versions share a relay, if the relay is the newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec

from rowbell._watch.database.tables import TableEntry
from rowbell._watch.values.key_hash import RowId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rowbell._watch.database.tables import Columns

VERSION: Final = 1
"""The version of the messages that this library sends."""

UNDERSTOOD: Final = range(max(1, VERSION - 1), VERSION + 1)
"""The versions that a relay understands."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part of a message, written as an array."""


class Table(Part, frozen=True):
    """A watched table: its oid, the argument that its triggers must have, the watched columns."""

    oid: int
    options: str
    columns: list[str]

    @classmethod
    def of(cls, entry: TableEntry) -> Table:
        """The table of an entry."""
        return cls(entry.oid, entry.options.decode(), _names(entry.columns))

    @property
    def entry(self) -> TableEntry:
        """The entry, with which the database is asked."""
        return TableEntry(self.oid, self.options.encode(), frozenset(self.columns))


class Row(Part, frozen=True):
    """A row: its table, the hash of its key, and the watched columns; without them, any column."""

    table_oid: int
    key_hash: int
    columns: list[str] | None = None

    @classmethod
    def of(cls, row_id: RowId, columns: Columns) -> Row:
        """The row with that id."""
        return cls(*row_id, None if columns is None else _names(columns))

    @property
    def row_id(self) -> RowId:
        """The row's id."""
        return RowId(self.table_oid, self.key_hash)

    @property
    def named(self) -> Columns:
        """The watched columns."""
        return None if self.columns is None else frozenset(self.columns)


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
    """Register rows. ``tables`` are all tables that the process watches."""

    tables: list[Table]
    rows: list[Row]


class Unregister(Message, frozen=True, tag="unregister"):
    """The process no longer needs these rows."""

    rows: list[tuple[int, int]]


class TakeBoundary(Message, frozen=True, tag="boundary"):
    """Take a boundary: the process has missed messages, or a table has another name."""


class LookForWriters(Message, frozen=True, tag="writers"):
    """Which of these tables can no transaction below the boundary change any more?"""

    tables: list[int]
    boundary: int


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


# -- envelopes


class Head(msgspec.Struct, frozen=True):
    """What every version can read of every envelope."""

    version: int
    session: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a process sends."""

    version: int = VERSION
    session: str
    number: int
    message: FromProcess


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay sends.

    Attributes:
        version: The version of the message.
        session: The hash of the session's ID, which is not secret.
        term: The number of the relay's term; a later leader has a higher one.
        epoch: An ID of this term, by chance.
        number: The message's number in the session.
        message: The message.
    """

    version: int = VERSION
    session: str
    term: int
    epoch: str
    number: int
    message: FromRelay


_encoder: Final = msgspec.json.Encoder()
_requests: Final = msgspec.json.Decoder(Request)
_answers: Final = msgspec.json.Decoder(Answer)
_heads: Final = msgspec.json.Decoder(Head)
_EnvelopeT = TypeVar("_EnvelopeT", Request, Answer)


class UnreadableError(Exception):
    """A message cannot be read.

    Args:
        head: What can be read of it; ``None`` if nothing can.
    """

    def __init__(self, head: Head | None) -> None:
        self.head = head
        version = "unknown" if head is None else head.version
        super().__init__(f"a message of version {version}, this library understands {VERSION}")


def encode(envelope: Request | Answer) -> bytes:
    """The bytes of an envelope."""
    return _encoder.encode(envelope)


def decode_request(data: bytes) -> Request:
    """The request in these bytes.

    Raises:
        UnreadableError: There is none, or it has a version that is not understood.
    """
    return _checked(data, _requests)


def decode_answer(data: bytes) -> Answer:
    """The answer in these bytes.

    Raises:
        UnreadableError: There is none, or it has a version that is not understood.
    """
    return _checked(data, _answers)


def _checked(data: bytes, decoder: msgspec.json.Decoder[_EnvelopeT]) -> _EnvelopeT:
    try:
        head = _heads.decode(data)
    except msgspec.MsgspecError:
        raise UnreadableError(None) from None
    if head.version not in UNDERSTOOD:
        raise UnreadableError(head)
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError:
        raise UnreadableError(head) from None


def _names(columns: Iterable[str]) -> list[str]:
    """Names of columns, which may be instances of SQLAlchemy's ``quoted_name``."""
    return sorted(map(str, columns))


def rows_of(row_ids: Iterable[RowId]) -> list[tuple[int, int]]:
    """Row ids, as a message has them."""
    return [(oid, key) for oid, key in row_ids]


def row_id(row: tuple[int, int]) -> RowId:
    """A row id that a message had."""
    return RowId(*row)
