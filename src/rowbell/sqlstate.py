"""The SQLSTATEs that decide something (PostgreSQL's appendix A, "Error Codes")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

NO_ACTIVE_TRANSACTION: Final = "25P01"
DUPLICATE_DATABASE: Final = "42P04"
INVALID_CATALOG_NAME: Final = "3D000"
OBJECT_IN_USE: Final = "55006"
LOCK_NOT_AVAILABLE: Final = "55P03"


def has_sqlstate(error: DBAPIError, sqlstate: str) -> bool:
    """Whether the server refused with that SQLSTATE, whatever name the driver has for it."""
    return sqlstate in {getattr(error.orig, name, None) for name in ("sqlstate", "pgcode")}
