"""The types of a class's columns in the database, and so their forms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import text
from sqlalchemy.types import UserDefinedType

from rowbell._identifiers import qualified
from rowbell._watch.values.forms import Form, Part, form_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Dialect

_FACTS: Final = text("""
WITH RECURSIVE unwrapped AS (
  SELECT t.oid AS type, t.oid FROM pg_catalog.pg_type AS t
  WHERE t.oid = ANY (CAST(:types AS pg_catalog.oid[]))
  UNION ALL
  SELECT u.type, t.typbasetype FROM unwrapped AS u
  JOIN pg_catalog.pg_type AS t ON t.oid = u.oid WHERE t.typtype = 'd'
), base AS (
  SELECT u.type, u.oid FROM unwrapped AS u
  JOIN pg_catalog.pg_type AS t ON t.oid = u.oid WHERE t.typtype <> 'd'
), part AS (
  SELECT b.oid AS whole, b.oid FROM base AS b
  UNION
  SELECT p.whole, next.oid FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
  CROSS JOIN LATERAL (
    SELECT t.typelem AS oid WHERE t.typcategory = 'A' AND t.typelem <> 0
    UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL
    SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
    UNION ALL
    SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) AS next
)
SELECT b.type, own_schema.nspname AS own_schema, own.typname AS own_name, p.oid = b.oid AS is_whole,
       n.nspname AS schema, t.typname AS name, CAST(t.typtype AS pg_catalog.text) AS kind,
       CAST(t.typcategory AS pg_catalog.text) AS category,
       t.typsend <> 0 AS is_sent, t.typcategory = 'A' AND t.typelem <> 0 AS is_array
FROM base AS b JOIN part AS p ON p.whole = b.oid
JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
JOIN pg_catalog.pg_type AS own ON own.oid = b.type
JOIN pg_catalog.pg_namespace AS own_schema ON own_schema.oid = own.typnamespace
WHERE p.oid = b.oid OR t.typtype IN ('b', 'e')""")


class NamedType(UserDefinedType[Any]):
    """A database type, by its name.

    Args:
        name: The name as SQL.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """The name."""
        return self.name


class BaseType(NamedTuple):
    """A type in the catalog; of a domain, the type beneath it."""

    schema: str
    name: str
    category: str

    @property
    def named(self) -> NamedType:
        """The type, to cast a value to."""
        return NamedType(qualified(self.schema, self.name))


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column.

    Attributes:
        form: How it is read and compared.
        named: The type, to cast a value to.
        base: The type; of a domain, the type beneath it.
    """

    form: Form
    named: NamedType
    base: BaseType


_known: WeakKeyDictionary[Dialect, dict[int, ColumnType]] = WeakKeyDictionary()


def column_types(connection: Connection, types: Iterable[int]) -> dict[int, ColumnType]:
    """The types with these oids. Each is queried once for all classes of an engine."""
    known = _known.setdefault(connection.dialect, {})
    missing = {oid for oid in types if oid not in known}
    if missing:
        known.update(_asked(connection, missing))
    return known


def forget_types(dialect: Dialect) -> None:
    """Forget the types: they may have changed."""
    _known.pop(dialect, None)


def _asked(connection: Connection, types: Iterable[int]) -> dict[int, ColumnType]:
    by_type: defaultdict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(_FACTS, {"types": sorted(types)}):
        by_type[row.type].append(row)
    found: dict[int, ColumnType] = {}
    for oid, rows in by_type.items():
        rows.sort(key=lambda row: not row.is_whole)
        parts = [Part(r.schema, r.name, r.kind, r.is_array, r.is_sent) for r in rows]
        base = BaseType(rows[0].schema, rows[0].name, rows[0].category)
        name = qualified(rows[0].own_schema, rows[0].own_name)
        found[oid] = ColumnType(form_of(*parts), NamedType(name), base)
    return found
