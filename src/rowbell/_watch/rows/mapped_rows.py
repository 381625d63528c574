"""The rows of a mapped class as reads want them: keys, columns, and the SELECT.

Values are read past the types of SQLAlchemy, in the form of the type that the column has in the
database (``forms``): what the database holds is compared, one odd value cannot fail a whole batch,
and no attribute is loaded that the caller deferred.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    column,
    func,
    join,
    select,
    type_coerce,
    values,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.orm import join as orm_join
from sqlalchemy.sql import visitors
from sqlalchemy.types import NullType

from rowbell._mapping import SchemaMap, mapper_of, table_name
from rowbell._primary_key import Key, key_names, key_of
from rowbell._watch.database.tables import WatchedTable, options_argument
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.column_forms import ColumnForms
from rowbell._watch.rows.columns import MappedColumns
from rowbell._watch.rows.evidence import Evidence
from rowbell._watch.rows.instances import Instances
from rowbell._watch.values.distinct import rows_differ
from rowbell._watch.values.key_hash import RowId, key_hash_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.selectable import FromClause


_pg_catalog = func.pg_catalog  # another function of that name may fit a parameter's type better


class MappedRows:
    """The rows of one mapped class, in the tables that one schema map leads to.

    Attributes:
        forms: The forms in which its columns are read.
        never_provable: Why its rows cannot be armed, once a read has shown that: the type of its
            key has no hash function, say.
        execution_options: What to execute its statements with.
    """

    def __init__(self, mapper: Mapper[Any], dialect: Dialect, schema_map: SchemaMap) -> None:
        self.mapper = mapper
        self.model: type[Any] = mapper.class_
        self.dialect = dialect
        self.schema_map = dict(schema_map)
        self.on_postgresql = dialect.name == "postgresql"
        self.columns = MappedColumns(mapper)
        self.never_provable: Reason | None = None
        self.execution_options: dict[str, Any] = {"schema_translate_map": self.schema_map or None}
        self.forms = ColumnForms(mapper, dialect, self.columns, self.execution_options)
        self._reads: dict[tuple[object, ...], Select[Any]] = {}

    @classmethod
    def of(cls, model: type[Any], dialect: Dialect, schema_map: SchemaMap | None) -> MappedRows:
        """The one object for these rows, which all waits for them share.

        Raises:
            UnmappedModelError: The model is not a mapped class.
        """
        mapper, schemas = mapper_of(model), dict(schema_map or {})
        name = (mapper, dialect, frozenset(schemas.items()))
        rows = _in_use.get(name)
        if rows is None:
            rows = _in_use[name] = cls(mapper, dialect, schemas)
        return rows

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The attributes of the primary key."""
        return key_names(self.mapper)

    def key(self, value: object) -> Key:
        """The primary key as a tuple, given as ``Session.get`` takes it.

        Raises:
            InvalidKeyError: Too few or too many values, an unknown attribute, or a value that
                the column's type cannot hold.
        """
        return key_of(self.mapper, value, bounded=self.on_postgresql)

    def describe(self, key: Key) -> dict[str, object]:
        """The key by attribute name, for errors."""
        return dict(zip(self.key_names, key, strict=True))

    # -- tables

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The class's tables: several with joined inheritance."""
        return tuple(table for table in self.mapper.tables if isinstance(table, Table))

    @cached_property
    def has_keys(self) -> bool:
        """Whether each of the tables has a primary key, by which a trigger names its rows."""
        whole = bool(self.tables) and len(self.tables) == len(self.mapper.tables)
        return whole and all(table.primary_key.columns for table in self.tables)

    def never_armed(self, names: Sequence[str]) -> Reason | None:
        """Why triggers cannot notify of those attributes, whatever is installed, if so."""
        if not self.has_keys:
            return Reason.NO_KEY
        if self.never_provable is not None:
            return self.never_provable
        declared = self.columns.declared
        return None if names is declared or set(names) <= set(declared) else Reason.NOT_DECLARED

    @cached_property
    def watched_tables(self) -> tuple[WatchedTable, ...]:
        """The tables as their triggers must be."""
        mapped = self.columns.by_table(tuple(self.columns.properties))
        return tuple(
            WatchedTable(
                table.name,
                self.schema_map.get(table.schema, table.schema),
                options_argument(table),
                frozenset(mapped.get(table, ())),
            )
            for table in self.tables
        )

    def differ(self, names: tuple[str, ...], before: Sequence[Any], after: Sequence[Any]) -> bool:
        """Whether two readings of those attributes differ."""
        return rows_differ(before, after, self.forms.rules(names))

    def registered(self, names: Sequence[str]) -> tuple[frozenset[str] | None, ...]:
        """For each of the tables, the columns to register those attributes with."""
        return tuple(self.columns.registered(names, table) for table in self.tables)

    def table_name(self, table: Table) -> str:
        """The table's name as SQL."""
        return table_name(table, self.schema_map)

    # -- reads

    def read(
        self,
        keys: Sequence[Key],
        names: tuple[str, ...],
        *,
        until: ColumnElement[bool] | None = None,
        evidence: bool,
        instances: bool = False,
        values: Sequence[str] = (),
    ) -> tuple[Select[Any], dict[str, Any]]:
        """The SELECT of a batch of rows, and its parameters.

        Its columns: the row's place in the batch (from 1), with ``instances`` the instance,
        ``names`` in their forms, the driver's own values of ``values``, ``until`` if given, and
        with ``evidence`` oid and hash for each table, the snapshot's xmin and whether the server
        is in recovery.
        """
        name = (tuple((name, self.forms.of(name)) for name in names), evidence, instances, values)
        statement: Any = self._reads.get(name) if until is None and self._as_arrays else None
        if statement is None:
            wanted = self._wanted(keys)
            columns: list[Any] = [wanted.c.place, *([self.model] if instances else ())]
            columns += [
                self.forms.of(name).read(getattr(self.model, name)).label(f"form_{i}")
                for i, name in enumerate(names)
            ]
            columns += [
                type_coerce(getattr(self.model, name), NullType()).label(f"value_{i}")
                for i, name in enumerate(values)
            ]
            if until is not None:
                columns.append(type_coerce(until, Boolean()).label("until_"))
            if evidence:
                columns += self._evidence()
            statement = select(*columns).select_from(self._joined(wanted))
            if until is None and self._as_arrays:
                self._reads[name] = statement
        return statement, self._parameters(keys)

    def load(
        self, keys: Sequence[Key], *, unfiltered: bool = False
    ) -> tuple[Select[Any], dict[str, Any]]:
        """The SELECT of a batch of instances, each with its place before it, and its parameters.

        With ``unfiltered`` no listener to the session can add criteria to it.
        """
        wanted = self._wanted(keys)
        statement: Any = select(wanted.c.place, self.model)
        if unfiltered:
            where = and_(
                *(c == wanted.c[f"key_{i}"] for i, c in enumerate(self.mapper.primary_key))
            )
            table = join(wanted, self.mapper.selectable, where)
            plain = select(wanted.c.place, *self.mapper.columns).select_from(table)
            statement = statement.from_statement(plain)
        else:
            statement = statement.select_from(self._joined(wanted))
        return statement, self._parameters(keys)

    def subclass(self, key: Key) -> tuple[Select[Any], dict[str, Any]] | None:
        """The SELECT of what tells a row's own class; ``None`` where it can be of one only."""
        if self.mapper.polymorphic_on is None or len(list(self.mapper.self_and_descendants)) == 1:
            return None
        wanted = self._wanted([key])
        statement = select(self.mapper.polymorphic_on).select_from(self._joined(wanted))
        return statement, self._parameters([key])

    @cached_property
    def instances_come_with_values(self) -> bool:
        """Whether one SELECT can return both: not with eager joins, which multiply rows."""
        return not any(relationship.lazy == "joined" for relationship in self.mapper.relationships)

    @cached_property
    def maker(self) -> Instances | None:
        """What makes instances of the values alone, where that is all that loading is."""
        return Instances(self.mapper, self.dialect) if Instances.can_make(self.mapper) else None

    def _parameters(self, keys: Sequence[Key]) -> dict[str, Any]:
        if not self._as_arrays:
            return {}
        return {f"key_{i}": [key[i] for key in keys] for i in range(len(self.key_names))}

    def evidence_of(self, row: Sequence[Any]) -> Evidence:
        """The evidence at the end of a row that was read with it."""
        first = len(row) - 2 * len(self.tables) - 2
        row_ids = tuple(RowId(row[i], row[i + 1]) for i in range(first, len(row) - 2, 2))
        return Evidence(row_ids, row[-2], row[-1])

    def literals(self, given: Mapping[str, Any]) -> Select[Any]:
        """The SELECT of given values, in the form in which ``read`` returns those columns."""
        parts: list[ColumnElement[Any]] = []
        for name, one in given.items():
            type_ = self.columns.properties[name].columns[0].type
            bound = bindparam(None, one, type_=type_)
            value: ColumnElement[Any] = select(bound).scalar_subquery()
            if self.on_postgresql:
                value = sql_cast(bound, type_)
            if name in self.forms.types:
                value = sql_cast(value, self.forms.types[name].named)
            parts.append(self.forms.of(name).read(value).label(f"since_{name}"))
        return select(*parts)

    def current(
        self, keys: Sequence[Key], names: Sequence[str]
    ) -> tuple[Select[Any], dict[str, Any]]:
        """The SELECT of some attributes of rows, each in its form and as its type returns it."""
        wanted = self._wanted(keys)
        columns: list[Any] = [wanted.c.place]
        for i, name in enumerate(names):
            attribute = getattr(self.model, name)
            columns += [self.forms.of(name).read(attribute).label(f"form_{i}"), attribute]
        statement: Any = select(*columns).select_from(self._joined(wanted))
        return statement, self._parameters(keys)

    @cached_property
    def _as_arrays(self) -> bool:
        """Whether keys are bound as arrays, which leave the statement one and the same."""
        key = self.mapper.primary_key
        return self.on_postgresql and not any(isinstance(c.type, ARRAY) for c in key)

    def _wanted(self, keys: Sequence[Key]) -> FromClause:
        """The keys as a table."""
        parts = [column(f"key_{i}", c.type) for i, c in enumerate(self.mapper.primary_key)]
        if self._as_arrays:
            arrays = [bindparam(part.name, type_=ARRAY(part.type)) for part in parts]
            # With several arguments it is part of the grammar, and must not be named with a schema.
            unnest = (func if len(arrays) > 1 else _pg_catalog).unnest(*arrays)
            unnested = unnest.table_valued(*parts, with_ordinality="place")
            return unnested.render_derived(name="wanted")
        # VALUES of no row are not SQL; a key of NULLs is no row's.
        rows = [(place, *key) for place, key in enumerate(keys or [(None,) * len(parts)], 1)]
        return values(column("place", Integer), *parts, name="wanted").data(rows).cte("wanted")

    def _joined(self, wanted: FromClause) -> FromClause:
        pairs = zip(self.mapper.primary_key, range(len(self.key_names)), strict=True)
        return orm_join(wanted, self.mapper, and_(*(c == wanted.c[f"key_{i}"] for c, i in pairs)))

    def _evidence(self) -> list[ColumnElement[Any]]:
        columns: list[ColumnElement[Any]] = []
        for table in self.tables:
            name = sql_cast(self.table_name(table), Text)
            oid = select(sql_cast(_pg_catalog.to_regclass(name), OID))
            columns += [oid.scalar_subquery(), key_hash_column(table)]
        xmin = _pg_catalog.pg_snapshot_xmin(_pg_catalog.pg_current_snapshot())
        horizon = select(sql_cast(sql_cast(xmin, Text), BigInteger)).scalar_subquery()
        recovery = _pg_catalog.pg_is_in_recovery(type_=Boolean())
        started = _pg_catalog.date_part("epoch", _pg_catalog.pg_postmaster_start_time())
        server = select(case((recovery, None), else_=started)).scalar_subquery()
        return [*columns, horizon, type_coerce(server, NullType())]

    def foreign_column(self, expression: ColumnElement[Any]) -> str | None:
        """The first column in an expression that is not one of this class's tables."""
        own = {c for table in self.mapper.tables for c in table.c}
        for element in visitors.iterate(expression):
            if isinstance(element, Column) and element not in own:
                return str(element)
        return None


_in_use: WeakValueDictionary[tuple[Any, ...], MappedRows] = WeakValueDictionary()
