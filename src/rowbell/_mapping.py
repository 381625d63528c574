"""Mapped classes and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import Table, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

from rowbell._identifiers import qualified
from rowbell.errors import UnmappedModelError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.orm import Session

ModelOrTable: TypeAlias = Table | type[Any]
"""A table, or a mapped class, which stands for all of its tables."""

SchemaMap: TypeAlias = Mapping[str | None, str | None]
"""SQLAlchemy's ``schema_translate_map``."""


def mapper_of(model: object) -> Mapper[Any]:
    """The mapper of a mapped class.

    Raises:
        UnmappedModelError: The model is not a mapped class.
    """
    try:
        mapper = inspect(model)
    except NoInspectionAvailable:
        raise UnmappedModelError(model) from None
    if not isinstance(mapper, Mapper) or not isinstance(model, type):
        raise UnmappedModelError(model)
    return mapper


def tables_of(models: Iterable[ModelOrTable]) -> list[Table]:
    """The tables of models, each once. With joined inheritance a model has several.

    Raises:
        UnmappedModelError: One is neither a mapped class nor a table.
    """
    tables: dict[Table, None] = {}
    for model in models:
        mapped = [model] if isinstance(model, Table) else mapper_of(model).tables
        tables.update((table, None) for table in mapped if isinstance(table, Table))
    return list(tables)


def schema_map_of(session: Session, bind: Engine | Connection) -> SchemaMap:
    """The ``schema_translate_map`` that applies when the session uses that engine or connection."""
    # Since SQLAlchemy 2.1 a session has its own execution options.
    options = {**bind.get_execution_options(), **getattr(session, "execution_options", {})}
    return options.get("schema_translate_map") or {}


def sync_connection(connection: AsyncConnection) -> Connection:
    """The connection's ``sync_connection``, which is ``None`` only before it is opened."""
    return cast("Connection", connection.sync_connection)


def table_name(table: Table, schema_map: SchemaMap) -> str:
    """The table's name as SQL, in the schema that the map gives."""
    return qualified(schema_map.get(table.schema, table.schema), table.name)
