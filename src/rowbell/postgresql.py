"""What is PostgreSQL's own: SQLSTATEs (its appendix A, "Error Codes") and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

NO_ACTIVE_TRANSACTION: Final = "25P01"
IN_FAILED_TRANSACTION: Final = "25P02"
DUPLICATE_DATABASE: Final = "42P04"
INVALID_CATALOG_NAME: Final = "3D000"
OBJECT_IN_USE: Final = "55006"
LOCK_NOT_AVAILABLE: Final = "55P03"

_MAX_PARAMETERS: Final = 32_767  # of one statement, as asyncpg writes the protocol
_MAX_ROWS: Final = 1_000  # in an IN list of rows, which the parser nests, and its stack is limited


def has_sqlstate(error: DBAPIError, sqlstate: str) -> bool:
    """Whether the server refused with that SQLSTATE, whatever name the driver has for it."""
    return sqlstate in {getattr(error.orig, name, None) for name in ("sqlstate", "pgcode")}


def longest_in_list(columns: int, *, besides: int = 0) -> int:
    """How many keys the IN list of a statement may have.

    Args:
        columns: The columns of a key.
        besides: The statement's other parameters.
    """
    return _MAX_PARAMETERS - besides if columns == 1 else _MAX_ROWS
