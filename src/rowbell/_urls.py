"""Database URLs: what asyncpg takes, and what it has another name for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url

from rowbell.errors import InvalidArgumentError, UnsupportedEngineError

if TYPE_CHECKING:
    from sqlalchemy import Engine


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
