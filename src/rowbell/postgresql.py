"""What is PostgreSQL's own: SQLSTATEs (its appendix A, "Error Codes") and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, make_url

from rowbell.errors import InvalidArgumentError, UnsupportedEngineError

if TYPE_CHECKING:
    from sqlalchemy import Engine

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
SYNTAX_OR_ACCESS_RULE: Final = "42"  # the class of the two above, and of what else is unknown
LOCK_NOT_AVAILABLE: Final = "55P03"
QUERY_CANCELED: Final = "57014"

_MAX_PARAMETERS: Final = 32_767  # of one statement, as asyncpg writes the protocol
_MAX_ROWS: Final = 1_000  # in an IN list of rows, which the parser nests, and its stack is limited


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of an error, SQLAlchemy's or the driver's own; empty where it has none."""
    cause = getattr(error, "orig", None) or error
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")


def has_sqlstate(error: BaseException, *sqlstates: str) -> bool:
    """Whether the server refused with one of these, whatever name the driver has for it."""
    return sqlstate_of(error) in sqlstates


def asyncpg_url(url: str | URL) -> URL:
    """A PostgreSQL URL for any driver, or none, as one for asyncpg.

    Raises:
        InvalidArgumentError: It is one of another database.
    """
    url = make_url(url)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidArgumentError("the URL", url.get_backend_name(), "PostgreSQL's")
    query = {{"sslmode": "ssl"}.get(name, name): value for name, value in url.query.items()}
    return url.set(drivername="postgresql+asyncpg", query=query)


def refuse_libpq_arguments(engine: Engine) -> None:
    """Refuse a URL with an argument of libpq's that asyncpg has another name for.

    Raises:
        UnsupportedEngineError: It has ``?sslmode=``.
    """
    if engine.dialect.driver == "asyncpg" and "sslmode" in engine.url.query:
        mode = engine.url.query["sslmode"]
        raise UnsupportedEngineError(
            f"the engine's URL says ?sslmode={mode}, which is libpq's and psycopg's: for asyncpg "
            f"it is ?ssl={mode}"
        )


def longest_in_list(columns: int, *, besides: int = 0) -> int:
    """How many keys the IN list of a statement may have.

    Args:
        columns: The columns of a key.
        besides: The statement's other parameters.
    """
    return _MAX_PARAMETERS - besides if columns == 1 else _MAX_ROWS
