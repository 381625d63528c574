"""Queries of the catalog, in which every name is PostgreSQL's own.

A role that may create objects in a schema of the ``search_path`` could otherwise make the doctor,
who may be a superuser, run its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from rowbell._watch.database.ddl import in_terms_of_pg_catalog

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def rows(engine: AsyncEngine, query: str, **parameters: Any) -> list[Any]:
    """The rows of a query."""

    def ask(connection: Connection) -> list[Any]:
        with in_terms_of_pg_catalog(connection):
            return list(connection.execute(text(query), parameters))

    async with engine.connect() as connection:
        return await connection.run_sync(ask)
