"""Database URLs for a driver, and arguments that have another name in asyncpg."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url

from rowbell.errors import InvalidArgumentError, UnsupportedEngineError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def url_for(driver: str, url: str | URL) -> URL:
    """Convert a PostgreSQL URL, for any driver or none, to one for this driver.

    Args:
        driver: ``"asyncpg"`` or ``"psycopg"``.
        url: The URL.

    Raises:
        InvalidArgumentError: It is a URL of another database.
    """
    url = make_url(url)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidArgumentError("the URL", url.get_backend_name(), "a PostgreSQL URL")
    renamed = {"sslmode": "ssl"} if driver == "asyncpg" else {"ssl": "sslmode"}
    query = {renamed.get(name, name): value for name, value in url.query.items()}
    return url.set(drivername=f"postgresql+{driver}", query=query)


def driver_of(url: str | URL) -> str:
    """The driver with asyncio that a URL names: psycopg if it does, else asyncpg."""
    drivername = make_url(url).drivername
    is_psycopg = drivername in {"postgresql+psycopg", "postgresql+psycopg_async"}
    return "psycopg" if is_psycopg else "asyncpg"


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
