"""Convert a primary key from any form that a caller may give to a tuple."""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sqlalchemy.types import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Time,
    TypeEngine,
    Uuid,
)

from rowbell.errors import InvalidKeyError

if TYPE_CHECKING:
    from types import UnionType

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Mapper

Key: TypeAlias = tuple[Any, ...]
"""The values of a primary key, in the mapper's order."""


def key_names(mapper: Mapper[Any]) -> tuple[str, ...]:
    """The attributes of the primary key, in the mapper's order."""
    return tuple(mapper.get_property_by_column(c).key for c in mapper.primary_key)


def key_of(mapper: Mapper[Any], value: object, *, bounded: bool) -> Key:
    """The primary key that a value stands for.

    Args:
        mapper: The mapper of the class.
        value: A single value, a tuple or list in the mapper's order, or a dict by attribute.
        bounded: Whether the database limits integers to the range of their type.

    Raises:
        InvalidKeyError: There are too few or too many values, an attribute is unknown, or the
            column's type cannot hold a value.
    """
    model, names = mapper.class_, key_names(mapper)
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        if set(given) != set(names):
            raise InvalidKeyError(model, value, f"its attributes are {', '.join(names)}")
        key = tuple(given[name] for name in names)
    elif isinstance(value, tuple | list):
        parts: Iterable[Any] = value
        key = tuple(parts)
    else:
        key = (value,)
    if len(key) != len(names):
        why = f"it takes {len(names)} ({', '.join(names)}), not {len(key)}"
        raise InvalidKeyError(model, value, why)
    for name, column, part in zip(names, mapper.primary_key, key, strict=True):
        if not _fits(column.type, part, bounded=bounded):
            why = f"{name} takes {column.type!r}, which {type(part).__name__} {part!r:.40} is not"
            raise InvalidKeyError(model, value, why)
    return tuple(map(_as_loaded, mapper.primary_key, key))


def _as_loaded(column: ColumnElement[Any], value: Any) -> Any:
    """The value as a loaded instance has it. A session's identity map compares this form."""
    wants_uuid = isinstance(column.type, Uuid) and column.type.as_uuid
    return uuid.UUID(value) if wants_uuid and isinstance(value, str) else value


_ACCEPTED: Final[tuple[tuple[type[TypeEngine[Any]], type | UnionType], ...]] = (
    (Enum, str | enum.Enum),
    (Boolean, bool),
    (Integer, int),
    (Numeric, int | float | Decimal),
    (String, str),
    (DateTime, datetime),
    (Date, date),
    (Time, time),
    (Interval, timedelta),
    (LargeBinary, bytes | bytearray | memoryview),
    (Uuid, str | uuid.UUID),
)
"""What the common types accept. Other types, and the user's own types, are not checked here."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


def _fits(type_: TypeEngine[Any], value: object, *, bounded: bool) -> bool:
    """Whether a value can be bound as that type."""
    if value is None:
        return False
    for known, accepted in _ACCEPTED:
        if isinstance(type_, known):
            if isinstance(value, int) and isinstance(type_, Integer) and bounded:
                limit: int = 2 ** (_bits(type_) - 1)
                return -limit <= value < limit
            if isinstance(value, str) and isinstance(type_, Uuid):
                return _UUID.fullmatch(value) is not None
            fits: bool = isinstance(value, accepted)
            return fits
    return True


def _bits(type_: Integer) -> int:
    if isinstance(type_, SmallInteger):
        return 16
    return 64 if isinstance(type_, BigInteger) else 32
