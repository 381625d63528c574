"""How the values of each PostgreSQL type are read, so that two of them can be compared.

A wait ends when a value ``IS DISTINCT FROM`` its old value. For some types, the driver's values do
not show that: asyncpg's ``timedelta`` is the same for a year and for 365 days, its arrays have no
lower bounds, and ``json.loads`` converts long decimals to floats. So each type has a *form*: the
SQL that reads a column of the type, and the comparison of two results.

The database is asked for the type of a column, because the model may have another (``types``). The
types of ``pg_catalog`` are listed here. For all others there is a rule (``form_of``):

===============  ==============================================================================
as it is         enums: the driver's own value
the image        arrays, ranges, composites and all others: the SHA-256 of the binary
                 representation
the hash         ``citext``, and arrays, ranges and composites of numbers and texts that can be
                 equal although their images differ (1.0 and 1.00): PostgreSQL's hash
===============  ==============================================================================

PostgreSQL's hashes follow equality, but they do not distinguish all values: that of ``numeric``
ignores the sign, and that of an array its bounds. That of a ``jsonb`` array stays the same if
elements 32 apart are swapped, and eight bytes are folded to four. So signs and bounds are read in
addition. Types that contain ``jsonb``, times or ``bigint`` use the image: there 1.0 is not 1.00.

PostgreSQL has no equality for ``json``, ``xml``, ``point`` and ``polygon``. Its equality for
``box``, ``circle`` and ``path`` compares sizes. ``json`` is compared by value, the others as they
are stored. Text is compared character by character, independent of its collation.
"""

from __future__ import annotations

import json
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, LargeBinary, Text, func, literal_column, type_coerce
from sqlalchemy import cast as sql_cast
from sqlalchemy.types import NullType

from rowbell._watch.values.distinct import is_distinct

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement

_pg_catalog = func.pg_catalog
_SEED: Final = secrets.randbits(62)
"""The seed of the hashes. Outside of this process, nobody can find two values with one hash."""

UNKNOWN: Final = object()
"""A result that only the server can know."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form.

    Attributes:
        read: The SQL for a column of the type.
        differ: Whether two results that are not equal in Python are distinct; ``None`` means that
            they are.
        given: What a read returns for a value that a caller gives, or ``UNKNOWN``; ``None`` if only
            the server can know.
        is_value: Whether a read returns the driver's own value.
    """

    read: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    differ: Callable[[Any, Any], bool] | None = None
    given: Callable[[Any], object] | None = None
    is_value: bool = False


def _value(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(column, NullType())


def _text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return sql_cast(column, Text)


def _image(column: ColumnElement[Any]) -> ColumnElement[Any]:
    binary = _pg_catalog.record_send(func.ROW(column), type_=LargeBinary())
    return _pg_catalog.sha256(binary, type_=LargeBinary())


def _hash(column: ColumnElement[Any]) -> ColumnElement[Any]:
    seed: ColumnElement[int] = literal_column(str(_SEED))
    return _pg_catalog.hash_record_extended(func.ROW(column), seed, type_=BigInteger())


_NO_SIGN: Final = r"[^-,{}()[\]]|-(?=0(\.0*)?([^.0-9]|$))"
"""Everything except the signs of numbers and the separators of parts; -0 counts as 0."""


def _hash_of_parts(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The hash, and the signs of the parts, because the hash ignores them."""
    signs = _pg_catalog.regexp_replace(sql_cast(column, Text), _NO_SIGN, "", "g")
    return _pg_catalog.concat(_hash(column), signs, type_=Text())


def _hash_of_array(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same, with the array's bounds."""
    dims = _pg_catalog.array_dims(column)
    return _pg_catalog.concat(_hash_of_parts(column), dims, type_=Text())


def _sent(function: str) -> Callable[[ColumnElement[Any]], ColumnElement[Any]]:
    """The binary representation, by the type's own function."""

    def read(column: ColumnElement[Any]) -> ColumnElement[Any]:
        sent: ColumnElement[Any] = getattr(_pg_catalog, function)(column, type_=LargeBinary())
        return sent

    return read


def _day(value: object) -> object:
    if type(value) is not date or value in {date.min, date.max}:
        return UNKNOWN
    return struct.pack("!i", (value - date(2000, 1, 1)).days)


def _instant(value: object, *, aware: bool) -> object:
    """A ``datetime`` as microseconds since 2000. Drivers use the extremes for infinities."""
    if not isinstance(value, datetime) or (value.tzinfo is not None) != aware:
        return UNKNOWN
    if value.replace(tzinfo=None) in _EXTREMES:
        return UNKNOWN
    since = value - datetime(2000, 1, 1, tzinfo=UTC if aware else None)
    return struct.pack("!q", (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


_EXTREMES: Final = {datetime.min, datetime.max}  # noqa: DTZ901  # compared without a time zone


def _intervals_differ(before: bytes, after: bytes) -> bool:
    return _microseconds(before) != _microseconds(after)


def _microseconds(interval: bytes) -> object:
    """The length that PostgreSQL compares: a month has 30 days, a day 24 hours."""
    microseconds, days, months = struct.unpack("!qii", interval)
    if (microseconds, days, months) in _INFINITIES:
        return interval
    return microseconds + (days + months * 30) * 86_400_000_000


_INFINITIES: Final = {(2**63 - 1, 2**31 - 1, 2**31 - 1), (-(2**63), -(2**31), -(2**31))}


def documents_differ(before: str, after: str) -> bool:
    """Whether two JSON documents have different values. Numbers are compared as ``numeric``."""
    try:
        return is_distinct(_document(before), _document(after))
    except (
        ValueError,
        ArithmeticError,
        RecursionError,
    ):  # its text differs, and it cannot be parsed
        return True


def _document(text: str) -> object:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def _same(value: object) -> object:
    return value


AS_IT_IS: Final = Form(_value, differ=is_distinct, given=_same, is_value=True)
AS_TEXT: Final = Form(_text)
DOCUMENT: Final = Form(_text, differ=documents_differ)
DOCUMENT_AS_IT_IS: Final = Form(_value, differ=documents_differ, is_value=True)
"""For databases that store JSON as text."""
IMAGE: Final = Form(_image)
HASH: Final = Form(_hash)
HASH_OF_PARTS: Final = Form(_hash_of_parts)
HASH_OF_ARRAY: Final = Form(_hash_of_array)
_NUMBER: Final = Form(_value, differ=is_distinct, is_value=True)
"""Without ``given``: ``real`` does not store exactly 0.1."""

FORMS: Final = {
    **dict.fromkeys(
        (
            *("text", "varchar", "bytea", "xml", "tsvector"),
            *("bool", "int2", "int4", "int8", "uuid", "name", "oid", "xid", "cid"),
            *("bit", "varbit", "cidr", "inet", "macaddr", "macaddr8"),
        ),
        AS_IT_IS,
    ),
    **dict.fromkeys(("float4", "float8", "numeric"), _NUMBER),
    "date": Form(_sent("date_send"), given=_day),
    "timestamp": Form(_sent("timestamp_send"), given=lambda v: _instant(v, aware=False)),
    "timestamptz": Form(_sent("timestamptz_send"), given=lambda v: _instant(v, aware=True)),
    "interval": Form(_sent("interval_send"), differ=_intervals_differ),
    "bpchar": Form(_text),  # the cast to text removes trailing blanks
    "json": DOCUMENT,
    "jsonb": DOCUMENT,
    **dict.fromkeys(
        (
            *("time", "timetz", "char", "money", "tsquery", "jsonpath", "refcursor"),
            *("point", "lseg", "path", "box", "polygon", "line", "circle"),
            *("xid8", "tid", "pg_lsn", "pg_snapshot", "txid_snapshot"),
            *("regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype"),
            *("regrole", "regnamespace", "regcollation", "regconfig", "regdictionary"),
            *("regdatabase", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list"),
            *("pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"),
        ),
        IMAGE,
    ),
    **dict.fromkeys(("aclitem", "gtsvector"), AS_TEXT),
    **dict.fromkeys(("int4range", "int8range", "daterange", "tsrange", "tstzrange"), IMAGE),
    **dict.fromkeys(("int4multirange", "int8multirange", "datemultirange"), IMAGE),
    **dict.fromkeys(("tsmultirange", "tstzmultirange"), IMAGE),
    **dict.fromkeys(("numrange", "nummultirange"), HASH_OF_PARTS),
}
"""The form of each type in the schema ``pg_catalog`` that is useful for a column of a table."""


_EQUAL: Final = frozenset({"numeric", "float4", "float8", "bpchar", "citext"})
"""Types with values that are equal although their images differ, and with a usable hash."""

_TOLD_APART: Final = _EQUAL | {"bool", "int2", "int4", "text", "varchar", "name", "uuid", "bytea"}
"""Types whose hash distinguishes all values, except for the sign of ``numeric``."""


@dataclass(frozen=True, slots=True)
class Part:
    """A type that another one consists of, or that type itself.

    Attributes:
        schema: Its schema.
        name: Its name.
        kind: Its kind, as in ``pg_type.typtype``.
        is_array: Whether it is an array.
        is_sent: Whether it has a binary representation.
    """

    schema: str
    name: str
    kind: str
    is_array: bool
    is_sent: bool


def form_of(whole: Part, *parts: Part) -> Form:
    """The form of a type.

    Args:
        whole: The type; for a domain, its base type.
        *parts: The types that it consists of.
    """
    listed = FORMS.get(whole.name) if whole.schema == "pg_catalog" else None
    if listed is not None:
        return listed
    if whole.kind == "e":
        return AS_IT_IS
    simple = [part for part in parts if not part.is_array] or [whole]
    if not all(part.is_sent for part in simple):
        return AS_TEXT
    names = {part.name for part in simple}
    if not (names & _EQUAL and names <= _TOLD_APART):
        return IMAGE
    if whole.is_array:
        return HASH_OF_ARRAY
    # The hash of an array inside another type ignores its bounds.
    inner = IMAGE if len(simple) < len(parts) else HASH_OF_PARTS
    return inner if parts else HASH
