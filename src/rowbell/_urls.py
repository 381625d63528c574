"""Database URLs for asyncpg, and arguments that have another name in asyncpg."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url

from rowbell.errors import InvalidArgumentError, UnsupportedEngineError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def asyncpg_url(url: str | URL) -> URL:
    """Convert a PostgreSQL URL, for any driver or none, to one for asyncpg.

    Raises:
        InvalidArgumentError: It is a URL of another database.
    """
    url = make_url(url)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidArgumentError("the URL", url.get_backend_name(), "a PostgreSQL URL")
    query = {{"sslmode": "ssl"}.get(name, name): value for name, value in url.query.items()}
    return url.set(drivername="postgresql+asyncpg", query=query)


def refuse_libpq_arguments(engine: Engine) -> None:
    """Refuse a URL with a libpq argument that has another name in asyncpg.

    Raises:
        UnsupportedEngineError: It has ``?sslmode=``.
    """
    if engine.dialect.driver == "asyncpg" and "sslmode" in engine.url.query:
        mode = engine.url.query["sslmode"]
        raise UnsupportedEngineError(
            f"the engine's URL has ?sslmode={mode}, which is an argument of libpq and psycopg: use "
            f"?ssl={mode} for asyncpg"
        )
