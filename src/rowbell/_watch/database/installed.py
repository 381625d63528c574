"""What the catalog knows of tables and their triggers, whoever has installed these."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, MetaData, Table, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, BIT, MONEY, OID
from sqlalchemy.types import NullType

from rowbell._watch.database.ddl import in_terms_of_pg_catalog
from rowbell._watch.database.tables import TriggerOptions, declare
from rowbell._watch.database.triggers import ForEach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

# Triggers of partitions are those of their partitioned table.
_TABLES: Final = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS is_partitioned,
  pg_has_role(c.relowner, 'USAGE') AS is_own,
  ARRAY(SELECT ARRAY[a.attname::text, f.typname::text]
        FROM pg_index AS i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(number, place)
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
        JOIN pg_type AS f ON f.oid = a.atttypid
        WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place) AS key,
  ARRAY(SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
  ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend AS d
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_trigger'::regclass AND d.objid = ANY (t.oids)
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
          AND d.refobjsubid > 0) AS depended,
  t.disabled, t.by_row, t.replicated, t.inserts, t.argument, t.names_columns
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN (
  SELECT t.tgrelid, array_agg(t.oid) AS oids,
    bool_or(t.tgname <> 'rowbell_truncate' AND t.tgtype & 1::smallint = 1) AS by_row,
    bool_or(t.tgenabled = 'A') AS replicated, bool_or(t.tgname = 'rowbell_update') AS names_columns,
    array_agg(t.tgname::text ORDER BY t.tgname) FILTER (WHERE t.tgenabled = 'D') AS disabled,
    bool_or(t.tgname = 'rowbell_insert') AS inserts,
    (array_agg(t.tgargs ORDER BY t.tgname DESC))[1] AS argument
  FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid
  WHERE t.tgname IN ('rowbell_update', 'rowbell_delete', 'rowbell_truncate', 'rowbell_insert')
    AND t.tgparentid = 0 AND f.proname ~ '^(rowbell_)?changed_[0-9a-f]{16}$'
  GROUP BY t.tgrelid
) AS t ON t.tgrelid = c.oid
"""
_WITH_TRIGGERS: Final = text(f"{_TABLES} WHERE t.tgrelid IS NOT NULL ORDER BY 2, 3")
_WITH_OIDS: Final = text(f"{_TABLES} WHERE c.oid = ANY (:oids)")


@dataclass(frozen=True, slots=True)
class TableInCatalog:
    """One table.

    Attributes:
        oid: Its oid.
        schema: Its schema.
        name: Its name.
        is_partitioned: Whether it is a partitioned table.
        is_own: Whether the current role may do what its owner may do.
        key: The columns of its primary key, in their order, with the names of their types.
        columns: All of its columns.
        depended: The columns that its triggers depend on. PostgreSQL lets nobody drop them, or
            change their type, while the triggers exist.
        disabled: The names of those triggers that are disabled.
        options: The options of its triggers; ``None`` if it has none. The form is only given if
            the other options do not determine it, and for a partitioned table.
    """

    oid: int
    schema: str
    name: str
    is_partitioned: bool
    is_own: bool
    key: dict[str, str]
    columns: frozenset[str]
    depended: frozenset[str]
    disabled: tuple[str, ...]
    options: TriggerOptions | None


def tables_with_triggers(connection: Connection) -> list[TableInCatalog]:
    """All tables that have triggers of rowbell, sorted by their names."""
    with in_terms_of_pg_catalog(connection):
        return [_table(row) for row in connection.execute(_WITH_TRIGGERS)]


def tables_in_catalog(connection: Connection, oids: Iterable[int]) -> dict[int, TableInCatalog]:
    """The tables with these oids, with or without triggers."""
    query = _WITH_OIDS.bindparams(bindparam("oids", list(oids), ARRAY(OID)))
    with in_terms_of_pg_catalog(connection):
        return {row.oid: _table(row) for row in connection.execute(query)}


_CAST: Final[dict[str, Any]] = {"bit": BIT, "varbit": BIT, "money": MONEY}
"""The types of key columns that are cast to be hashed."""


def table_of(found: TableInCatalog, options: TriggerOptions) -> Table:
    """The table with its key, for which these options are declared."""
    key = [
        Column(name, _CAST.get(type_, NullType)(), primary_key=True)
        for name, type_ in found.key.items()
    ]
    table = Table(found.name, MetaData(), *key, schema=found.schema)
    declare(table, options)
    return table


def _table(row: Any) -> TableInCatalog:
    return TableInCatalog(
        row.oid,
        row.schema,
        row.name,
        row.is_partitioned,
        row.is_own,
        dict(row.key),
        frozenset(row.columns),
        frozenset(row.depended),
        tuple(row.disabled or ()),
        None if row.argument is None else _options(row),
    )


def _options(row: Any) -> TriggerOptions:
    columns = _declared_columns(row)
    # A migration that is executed by --sql does not know that the table is partitioned.
    is_told = row.is_partitioned or not (row.replicated or columns is not None)
    form = ForEach.ROW if row.by_row and is_told else None
    return TriggerOptions(form, row.replicated, columns, row.inserts)


def _declared_columns(row: Any) -> tuple[str, ...] | None:
    """The declared columns: those of the argument, unless they are not what the trigger names.

    After a column was renamed, the condition has its new name and the argument its old one.
    """
    depended = set(row.depended)
    key, declared = _argument(row)
    if not row.names_columns:  # only the trigger for UPDATE does, and it does not exist
        return None if declared is None else tuple(c for c in declared if c in row.columns)
    if not depended:
        return None
    if declared is not None and {*key, *declared} == depended:
        return declared
    return tuple(sorted(depended.difference(dict(row.key))))


def _argument(row: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The key and the declared columns that the triggers' argument names."""
    try:
        argument = json.loads(bytes(row.argument).rstrip(b"\0"))
        return tuple(argument["key"]), tuple(map(str, argument["columns"]))
    except (ValueError, TypeError, KeyError):  # all columns, or a version with another form
        return (), None
