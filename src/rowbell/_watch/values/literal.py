"""Whether a read of a column would return exactly the value that a caller gives.

In general only the server knows: it rounds, pads and casts. For the plain types that most columns
have, no query is needed.
"""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Integer,
    SmallInteger,
    String,
    Text,
    Unicode,
    UnicodeText,
    Uuid,
)

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

_PLAIN: Final[dict[type[TypeEngine[Any]], type]] = {
    SmallInteger: int,
    Integer: int,
    BigInteger: int,
    String: str,
    Text: str,
    Unicode: str,
    UnicodeText: str,
    Boolean: bool,
    Uuid: UUID,
    Date: date,
    DateTime: datetime,
}


def is_read_as_given(type_: TypeEngine[Any], value: object) -> bool:
    """Whether PostgreSQL returns this value unchanged from a column of this type."""
    if value is None:
        return True
    if getattr(type_, "_variant_mapping", None):  # no public attribute shows with_variant()
        return False
    plain = _PLAIN.get(type(type_))
    # asyncpg has its own UUID class. A bool is not a plain int, and a datetime not a date.
    if type(value) is not plain and not (plain is UUID and isinstance(value, UUID)):
        return False
    if isinstance(type_, DateTime) and isinstance(value, datetime):
        # In a time zone without a fixed offset, an hour may occur twice (PEP 495).
        return isinstance(value.tzinfo, timezone) if type_.timezone else value.tzinfo is None
    if isinstance(type_, Uuid):
        return bool(type_.as_uuid and type_.native_uuid)
    return not isinstance(type_, String) or type_.length is None or len(str(value)) <= type_.length
