"""SQLSTATEs: PostgreSQL's error codes (manual, appendix A)."""

from __future__ import annotations

from typing import Final

NO_ACTIVE_TRANSACTION: Final = "25P01"
IN_FAILED_TRANSACTION: Final = "25P02"
UNIQUE_VIOLATION: Final = "23505"
DUPLICATE_DATABASE: Final = "42P04"
INVALID_CATALOG_NAME: Final = "3D000"
OBJECT_IN_USE: Final = "55006"
INSUFFICIENT_PRIVILEGE: Final = "42501"
INVALID_SCHEMA_NAME: Final = "3F000"
INVALID_SQL_STATEMENT_NAME: Final = "26000"
READ_ONLY_TRANSACTION: Final = "25006"
UNDEFINED_FUNCTION: Final = "42883"
UNDEFINED_TABLE: Final = "42P01"
SYNTAX_OR_ACCESS_RULE: Final = "42"  # the class of the two above and of similar errors
FEATURE_NOT_SUPPORTED: Final = "0A000"
DEPENDENT_OBJECTS_STILL_EXIST: Final = "2BP01"
LOCK_NOT_AVAILABLE: Final = "55P03"
QUERY_CANCELED: Final = "57014"


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of an error of SQLAlchemy or of the driver; empty if it has none."""
    cause = getattr(error, "orig", None) or error
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")


def has_sqlstate(error: BaseException, *sqlstates: str) -> bool:
    """Whether an error has one of these SQLSTATEs, with any driver."""
    return sqlstate_of(error) in sqlstates
