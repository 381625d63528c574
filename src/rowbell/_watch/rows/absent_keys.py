"""The keys of rows that do not exist, as the triggers will hash them when they are inserted.

A row that a SELECT has found is hashed by itself. Of a row that does not exist there is only the
key that the caller gave, in the type that the model binds. A trigger hashes it in the type of the
column: the integer 7 and the numeric 7 have different hashes. So the key is cast to the column's
type. A cast that can fail would fail the SELECT for all rows, so only casts that cannot are made.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    and_,
    case,
    column,
    func,
    literal_column,
    select,
    values,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.orm.exc import UnmappedColumnError

from rowbell._watch.database.tables import declared_columns, options_of
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.row_select import evidence_columns
from rowbell._watch.values.key_hash import key_hash_column
from rowbell._watch.values.types import BaseType, column_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Select, Table
    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.selectable import FromClause

    from rowbell._watch.rows.wanted_keys import WantedKeys

_RANGES: Final = {"int2": 15, "int4": 31, "int8": 63}
_EXACT: Final = frozenset({*_RANGES, "numeric"})
_ROUNDED: Final = frozenset({"float4", "float8"})
_CALENDAR: Final = frozenset({"date", "timestamp"})
_WITHOUT_ERRORS: Final = frozenset("STVI")
"""The categories within which casts cannot fail: text, spans, bits and networks."""


class AbsentKeys:
    """The keys of one class's rows that do not exist.

    Args:
        mapper: The class's mapper.
        tables: Its tables.
        keys: The keys that its SELECTs read.
        execution_options: The execution options of its statements.
    """

    def __init__(
        self,
        mapper: Mapper[Any],
        tables: Sequence[Table],
        keys: WantedKeys,
        execution_options: Mapping[str, Any],
    ) -> None:
        self._mapper = mapper
        self._tables = tables
        self._keys = keys
        self._execution_options = execution_options
        self._places = _places(mapper, tables)
        self._types: dict[Column[Any], tuple[BaseType, BaseType]] | None = None

    @property
    def notify(self) -> bool:
        """Whether inserts into all tables are declared to notify."""
        return all(options_of(table).inserts for table in self._tables)

    @property
    def never_armed(self) -> Reason | None:
        """Why such a row cannot be armed; ``None`` if it can, or if that is not known yet."""
        if not self.notify:
            return Reason.INSERTS_NOT_DECLARED
        if self._mapper.single and self._class_is_undeclared:
            return Reason.NOT_DECLARED
        return Reason.OTHER_KEY_TYPE if self.can_be_hashed is False else None

    @property
    def _class_is_undeclared(self) -> bool:
        """Whether a row may get this class by an UPDATE that calls no trigger."""
        declared = declared_columns(self._tables[0])
        discriminator: object = self._mapper.polymorphic_on
        is_declared = isinstance(discriminator, Column) and discriminator.name in (declared or ())
        return declared is not None and not is_declared

    def learn(self, connection: Connection) -> None:
        """Query the types of the keys' columns, unless they are known."""
        if self._types is not None or self._places is None:
            return
        columns = list(self._places)
        wanted = self._keys.table([])
        none: FromClause = values(column("one", Integer), name="one").data([(1,)])
        for each in (wanted, *self._tables):
            none = none.join(each, literal_column("false"), isouter=True)
        asking = select(
            *(_type_of(one) for one in columns),
            *(_type_of(wanted.c[f"key_{self._places[one]}"]) for one in columns),
        ).select_from(none)
        parameters = self._keys.parameters([])
        options = self._execution_options
        oids = list(connection.execute(asking, parameters, execution_options=options).one())
        known = column_types(connection, oids)
        types = {oid: known[oid].base for oid in oids}
        half = len(columns)
        self._types = {
            one: (types[oids[i]], types[oids[half + i]]) for i, one in enumerate(columns)
        }

    def forget(self) -> None:
        """Forget the types, so that they are queried again: a table may have changed."""
        self._types = None

    @property
    def can_be_hashed(self) -> bool | None:
        """Whether the keys can be cast to the types of their columns; ``None`` if it is unknown."""
        # A collation that the model names would take the place of the column's own.
        if self._places is None or any(getattr(c.type, "collation", None) for c in self._places):
            return False
        return (
            None if self._types is None else all(_is_safe(*pair) for pair in self._types.values())
        )

    @property
    def own(self) -> list[ColumnElement[Any]]:
        """The columns of the keys, for the SELECT of the rows that exist."""
        return [part.label(f"own_{i}") for i, part in enumerate(self._places or ())]

    def with_absent(
        self, statement: Select[Any], wanted: FromClause, names: Mapping[Table, str]
    ) -> Select[Any]:
        """The SELECT that also returns the evidence of the rows that do not exist.

        Both are seen by one snapshot: what a row is, and that a row does not exist.

        Args:
            statement: The SELECT of the rows that exist: the place, other columns, and ``own``.
            wanted: The keys.
            names: The class's tables, and their names as SQL.
        """
        found = statement.subquery("found")
        owned = dict(
            zip(self._places or (), list(found.c)[-len(self._places or ()) :], strict=True)
        )

        def value(part: Column[Any]) -> ColumnElement[Any]:
            return func.coalesce(owned[part], self._as_hashed(part, wanted))

        others = [c for c in found.c if c is not found.c.place and c not in owned.values()]
        return select(
            wanted.c.place,
            *others,
            found.c.place.is_not(None).label("exists_"),
            *evidence_columns(names, partial(key_hash_column, value=value)),
        ).select_from(wanted.outerjoin(found, found.c.place == wanted.c.place))

    def _as_hashed(self, part: Column[Any], wanted: FromClause) -> ColumnElement[Any]:
        """The key that the caller gave, as the value of that column."""
        places, types = self._places or {}, self._types or {}
        given = wanted.c[f"key_{places[part]}"]
        type_, bound = types[part]
        if type_ == bound:
            return given
        value: ColumnElement[Any] = sql_cast(given, type_.named)
        if (bits := _RANGES.get(type_.name)) is not None:
            # Not bound: the limits may be beyond the type that the model binds.
            # A fraction is rounded.
            above: ColumnElement[Any] = literal_column(f"({-(2**bits)}.5)")
            below: ColumnElement[Any] = literal_column(f"({2**bits - 1}.5)")
            value = case((and_(given > above, given < below), value))
        return value


def _type_of(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return sql_cast(func.pg_catalog.pg_typeof(value), OID)


def _is_safe(type_: BaseType, bound: BaseType) -> bool:
    """Whether a cast from the bound type cannot fail, and equal values are cast to equal ones.

    A column compares equal to floating-point numbers that are another value in its own type, and
    times with and without a time zone are compared in the zone of the session.
    """
    if type_ == bound:
        return True
    if type_.name in _EXACT:
        is_small = type_.name in {"int2", "int4"}
        return bound.name in _EXACT or (is_small and bound.name in _ROUNDED)
    if type_.category == "D":
        return {type_.name, bound.name} <= _CALENDAR
    # Where the collation is not deterministic, the hash of a bpchar depends on its length.
    is_padded = type_.name == "bpchar"
    return type_.category == bound.category and type_.category in _WITHOUT_ERRORS and not is_padded


def _places(mapper: Mapper[Any], tables: Sequence[Table]) -> dict[Column[Any], int] | None:
    """The place in the class's key of each column of a table's key; ``None`` if one has none."""
    own = [mapper.get_property_by_column(part) for part in mapper.primary_key]
    places: dict[Column[Any], int] = {}
    for table in tables:
        for part in table.primary_key.columns:
            try:
                places[part] = own.index(mapper.get_property_by_column(part))
            except (UnmappedColumnError, ValueError):
                return None
    return places
