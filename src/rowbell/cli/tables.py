"""Tables by their names."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import DBAPIError

from rowbell._sqlstate import INSUFFICIENT_PRIVILEGE, has_sqlstate
from rowbell._watch.database.ddl import in_terms_of_pg_catalog
from rowbell._watch.database.installed import (
    TableInCatalog,
    table_of,
    tables_in_catalog,
    tables_with_triggers,
)
from rowbell._watch.database.tables import TriggerOptions, table_triggers
from rowbell.cli.problem import ProblemError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALL: Final = text(
    "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c"
    " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_|^information_schema$|^rowbell$'"
)
_NOT_YOURS: Final = {"rowbell", "pg_catalog", "information_schema", "pg_toast"}
_FIND: Final = text("SELECT pg_catalog.to_regclass(:name)::pg_catalog.oid")


def named(connection: Connection, name: str) -> TableInCatalog:
    """The table of that name, which is written as in SQL, or as it is.

    Raises:
        ProblemError: There is none.
    """
    plain = ".".join(f'"{part}"' for part in name.split("."))
    # PostgreSQL takes digits for an oid.
    candidates = [plain, f'"{name}"'] if name.isdigit() else [name, plain, f'"{name}"']
    for candidate in candidates:
        try:
            with connection.begin_nested():
                oid = connection.scalar(_FIND, {"name": candidate})
        except DBAPIError as error:
            if error.connection_invalidated or has_sqlstate(error, INSUFFICIENT_PRIVILEGE):
                raise
            continue  # it is no name in SQL; the others may be one
        if oid is not None and oid in (tables := tables_in_catalog(connection, [oid])):
            if (found := tables[oid]).schema in _NOT_YOURS:
                raise ProblemError(f"the table {name!r} belongs to {found.schema}: leave it alone")
            return found
    with in_terms_of_pg_catalog(connection):
        all_tables = list(connection.execute(_ALL))
    names = [table if schema == "public" else f"{schema}.{table}" for schema, table in all_tables]
    close = get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"it has {len(names)} other tables"
    raise ProblemError(f"there is no table {name!r} in this database: {hint}")


def chosen(
    connection: Connection,
    names: Sequence[str],
    models: list[Table] | None,
    options: TriggerOptions,
) -> list[Table]:
    """The tables of a command: those of the names, those of the models, or both.

    Tables that models declare have their options; the others have these.

    Raises:
        ProblemError: A name is none, or nothing was named.
    """
    if not names and models is None:
        raise ProblemError("name a table, or give --models package.module:Base")
    declared = {table_triggers(connection, table).oid or 0: table for table in models or ()}
    if not names:
        return list(declared.values())
    tables: list[Table] = []
    for name in names:
        found = named(connection, name)
        if not found.key:
            raise ProblemError(f"the table {name!r} has no primary key to identify its rows")
        if unknown := sorted(set(options.columns or ()) - found.columns):
            raise ProblemError(f"the table {name!r} has no columns {', '.join(unknown)}")
        tables.append(declared.get(found.oid) or table_of(found, options))
    return tables


def with_triggers(connection: Connection, names: Sequence[str]) -> list[TableInCatalog]:
    """The tables of these names, or all that have triggers."""
    if names:
        return [named(connection, name) for name in names]
    return tables_with_triggers(connection)
