"""The SELECT that reads many rows of a class, and the layout of its result.

Values are read without SQLAlchemy's types, in the form of the column's type in the database
(``values.forms``). So the stored values are compared, one unusual value cannot fail the SELECT, and
no attribute is loaded that the caller has deferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Table,
    Text,
    case,
    func,
    select,
    type_coerce,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.types import NullType

from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.values.key_hash import RowId, key_hash_column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rowbell._watch.rows.column_forms import ColumnForms

_pg_catalog = func.pg_catalog  # another function of the same name might be chosen by its types


class FoundRow(NamedTuple):
    """A row that a SELECT has found.

    Attributes:
        place: Its place among the wanted keys, from 1.
        values: The values of the attributes, in their forms.
        raw: The same values as the driver returns them; usable if ``Layout.raw`` is not empty.
        until: The value of the condition.
        instance: The instance, if it was requested.
        evidence: What the proof needs, if it was requested.
        exists: Whether the row exists. Otherwise only the place and the evidence have a meaning.
    """

    place: int
    values: tuple[Any, ...]
    raw: tuple[Any, ...]
    until: bool
    instance: Any
    evidence: Evidence | None
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """What a SELECT returns, and in which order. Only this class defines it.

    ``place``, the instance, the attributes in their forms, the raw values, the condition, whether
    the row exists, and for the evidence: oid and hash of each table, xmin, and the server.

    Attributes:
        names: The attributes.
        raw: Those attributes for which the driver's own value is returned too.
        has_instance: Whether it returns the instance.
        has_condition: Whether it returns the value of a condition.
        tables: The number of the class's tables if it returns evidence; else 0.
        has_absent: Whether it also returns the evidence of rows that do not exist.
    """

    names: tuple[str, ...]
    raw: tuple[str, ...] = ()
    has_instance: bool = False
    has_condition: bool = False
    tables: int = 0
    has_absent: bool = False

    @property
    def driver_columns(self) -> list[int]:
        """The columns that hold the driver's own values of the attributes, in their order."""
        first = 2 if self.has_instance else 1
        columns = list(range(first, first + len(self.names)))
        for i, name in enumerate(self.raw):
            columns[self.names.index(name)] = first + len(self.names) + i
        return columns

    def parser(self) -> Callable[[Any], FoundRow]:
        """A function that makes a ``FoundRow`` from a row of the result."""
        first = 2 if self.has_instance else 1
        raw_at = first + len(self.names)
        condition_at = raw_at + len(self.raw)
        exists_at = condition_at + self.has_condition
        ids_at = exists_at + self.has_absent
        xmin_at = ids_at + 2 * self.tables
        driver_columns, has_raw = self.driver_columns, bool(self.raw)
        has_instance, has_condition, tables = self.has_instance, self.has_condition, self.tables
        has_absent = self.has_absent

        def found(row: Any) -> FoundRow:
            cells = tuple(row)
            values = cells[first:raw_at]
            evidence = None
            if tables:
                ids = [RowId(cells[i], cells[i + 1]) for i in range(ids_at, xmin_at, 2)]
                evidence = Evidence(tuple(ids), cells[xmin_at], cells[xmin_at + 1])
            return FoundRow(
                cells[0],
                values,
                tuple([cells[i] for i in driver_columns]) if has_raw else values,
                has_condition and bool(cells[condition_at]),
                cells[1] if has_instance else None,
                evidence,
                not has_absent or cells[exists_at],
            )

        return found


def selected_columns(
    layout: Layout,
    model: type[Any],
    forms: ColumnForms,
    condition: ColumnElement[bool] | None,
    tables: Mapping[Table, str],
) -> list[Any]:
    """The columns of the SELECT that returns a layout, after the place.

    Args:
        layout: The layout.
        model: The class.
        forms: The forms of its columns.
        condition: The condition, if the layout has one.
        tables: The class's tables, and their names as SQL.
    """
    columns: list[Any] = [model] if layout.has_instance else []
    columns += [
        forms.of(name).read(getattr(model, name)).label(f"form_{i}")
        for i, name in enumerate(layout.names)
    ]
    columns += [
        type_coerce(getattr(model, name), NullType()).label(f"value_{i}")
        for i, name in enumerate(layout.raw)
    ]
    if condition is not None:
        columns.append(type_coerce(condition, Boolean()).label("until_"))
    if layout.tables and not layout.has_absent:
        columns += evidence_columns(tables, key_hash_column)
    return columns


def evidence_columns(
    tables: Mapping[Table, str], hashed: Callable[[Table], ColumnElement[int]]
) -> list[ColumnElement[Any]]:
    """The columns of the evidence.

    Args:
        tables: The class's tables, and their names as SQL.
        hashed: Gives the hash that identifies the row in a table.
    """
    columns: list[ColumnElement[Any]] = []
    for table, name in tables.items():
        oid = select(sql_cast(_pg_catalog.to_regclass(sql_cast(name, Text)), OID))
        columns += [oid.scalar_subquery(), hashed(table)]
    xmin = _pg_catalog.pg_snapshot_xmin(_pg_catalog.pg_current_snapshot())
    lowest = select(sql_cast(sql_cast(xmin, Text), BigInteger)).scalar_subquery()
    recovery = _pg_catalog.pg_is_in_recovery(type_=Boolean())
    started = _pg_catalog.date_part("epoch", _pg_catalog.pg_postmaster_start_time())
    server = select(case((recovery, None), else_=started)).scalar_subquery()
    return [*columns, lowest, type_coerce(server, NullType())]
