"""A primary key as it was given, as the tuple that reads take."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Mapper
from sqlalchemy.types import (
    BigInteger,
    Enum,
    Integer,
    Numeric,
    SmallInteger,
    TypeDecorator,
    TypeEngine,
    Uuid,
)

from rowbell.errors import InvalidKeyError

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
        bounded: Whether the database's integers have the range of their type.

    Raises:
        InvalidKeyError: Too few or too many values, an unknown attribute, or a value that
            the column's type cannot hold.
    """
    model, names = mapper.class_, key_names(mapper)
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        if set(given) != set(names):
            raise InvalidKeyError(model, value, f"its attributes are {', '.join(names)}")
        key = tuple(given[name] for name in names)
    elif isinstance(value, tuple | list):
        key = tuple(cast("tuple[Any, ...] | list[Any]", value))
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
    """The value as a loaded instance has it, which a session's identity map compares."""
    wants_uuid = isinstance(column.type, Uuid) and column.type.as_uuid
    return uuid.UUID(value) if wants_uuid and isinstance(value, str) else value


def _fits(type_: TypeEngine[Any], value: object, *, bounded: bool) -> bool:
    """Whether a value can be bound as that type; types of the user's own say so themselves."""
    if value is None:
        return False
    if isinstance(type_, TypeDecorator):
        return True
    if isinstance(type_, Enum):
        return isinstance(value, str | type_.python_type)
    if isinstance(type_, Numeric):
        return isinstance(value, int | float | Decimal)
    try:
        python_type: type[Any] = type_.python_type
    except NotImplementedError:
        return True
    if python_type is int:
        bits = _bits(type_) if bounded else 64
        return isinstance(value, int) and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
    if python_type is uuid.UUID and isinstance(value, str):
        return re.fullmatch(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", value.lower()) is not None
    also = bytearray | memoryview if python_type is bytes else python_type
    return isinstance(value, python_type | also)


def _bits(type_: TypeEngine[Any]) -> int:
    if isinstance(type_, SmallInteger):
        return 16
    return 32 if isinstance(type_, Integer) and not isinstance(type_, BigInteger) else 64
