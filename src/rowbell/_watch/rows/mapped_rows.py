"""The rows of a mapped class: its key, its tables, and the statements that read them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Integer,
    Select,
    Table,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.sql import visitors

from rowbell._mapping import SchemaMap, mapper_of, table_name
from rowbell._primary_key import Key, key_names, key_of
from rowbell._watch.database.tables import WatchedTable, options_argument
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.absent_keys import AbsentKeys
from rowbell._watch.rows.column_forms import ColumnForms
from rowbell._watch.rows.columns import MappedColumns
from rowbell._watch.rows.instances import Instances
from rowbell._watch.rows.row_select import Layout, selected_columns
from rowbell._watch.rows.wanted_keys import WantedKeys
from rowbell._watch.values.distinct import rows_differ

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Mapper


class MappedRows:
    """The rows of one mapped class, in the tables that one schema map gives.

    Attributes:
        forms: The forms in which its columns are read.
        absent_keys: The keys of its rows that do not exist.
        never_provable: Why its rows cannot be armed, once a read has shown that. For example, the
            type of its key has no hash function.
        execution_options: The execution options of its statements.
    """

    def __init__(self, mapper: Mapper[Any], dialect: Dialect, schema_map: SchemaMap) -> None:
        self.mapper = mapper
        self.model: type[Any] = mapper.class_
        self.dialect = dialect
        self.schema_map: dict[str | None, str | None] = dict(schema_map)
        self.on_postgresql: bool = dialect.name == "postgresql"
        self.columns: MappedColumns = MappedColumns(mapper)
        self.never_provable: Reason | None = None
        self.execution_options: dict[str, Any] = {"schema_translate_map": self.schema_map or None}
        self.forms: ColumnForms = ColumnForms(mapper, dialect, self.columns, self.execution_options)
        self._keys = WantedKeys(mapper, on_postgresql=self.on_postgresql)
        self.absent_keys: AbsentKeys = AbsentKeys(
            mapper, self.tables, self._keys, self.execution_options
        )
        self._selects: dict[tuple[object, ...], Select[Any]] = {}

    @classmethod
    def of(cls, model: type[Any], dialect: Dialect, schema_map: SchemaMap | None) -> Self:
        """The object for these rows; all waits for them share it.

        Raises:
            UnmappedModelError: The model is not a mapped class.
        """
        mapper, schemas = mapper_of(model), dict(schema_map or {})
        name = (cls, cls.mappers(mapper), dialect, frozenset(schemas.items()))
        rows = _in_use.get(name)
        if rows is None:
            rows = _in_use[name] = cls(mapper, dialect, schemas)
        own: Self = rows
        return own

    @classmethod
    def mappers(cls, mapper: Mapper[Any]) -> tuple[Mapper[Any], ...]:
        """The mappers whose rows these are."""
        return (mapper,)

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The attributes of the primary key."""
        return key_names(self.mapper)

    def key(self, value: object) -> Key:
        """The primary key as a tuple, from any form that ``Session.get`` takes.

        Raises:
            InvalidKeyError: There are too few or too many values, an attribute is unknown, or the
                column's type cannot hold a value.
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
        """Whether each table has a primary key, which triggers need to identify rows."""
        whole = bool(self.tables) and len(self.tables) == len(self.mapper.tables)
        return whole and all(table.primary_key.columns for table in self.tables)

    def never_armed(self, names: Sequence[str]) -> Reason | None:
        """Why triggers can never notify of these attributes; ``None`` if they can."""
        if not self.has_keys:
            return Reason.NO_KEY
        if self.never_provable is not None:
            return self.never_provable
        declared = self.columns.declared
        return None if names is declared or set(names) <= set(declared) else Reason.NOT_DECLARED

    def forget(self) -> None:
        """Forget the types of its columns: the tables may have changed."""
        self.forms.forget()
        self.absent_keys.forget()
        self._selects.clear()

    @cached_property
    def watched_tables(self) -> tuple[WatchedTable, ...]:
        """The tables, with the options that their triggers must have."""
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
        """For each table, the columns that are registered for these attributes."""
        registered = (self.columns.registered(names, table) for table in self.tables)
        discriminator = self.mapper.polymorphic_on
        if discriminator is None:
            return tuple(registered)
        if not isinstance(discriminator, Column):
            return (None,) * len(self.tables)  # it may depend on any column
        # Another class may make a row of this class appear or disappear.
        return tuple(
            columns
            if columns is None or discriminator.table is not table
            else columns | {discriminator.name}
            for columns, table in zip(registered, self.tables, strict=True)
        )

    @cached_property
    def names(self) -> dict[Table, str]:
        """The tables, and their names as SQL."""
        return {table: table_name(table, self.schema_map) for table in self.tables}

    # -- statements

    def select(
        self,
        keys: Sequence[Key],
        layout: Layout,
        *,
        condition: ColumnElement[bool] | None = None,
    ) -> tuple[Select[Any], dict[str, Any]]:
        """The SELECT that reads many rows, and its parameters."""
        is_lasting = condition is None and self._keys.are_arrays
        is_one = len(keys) == 1 and self._keys.are_arrays
        is_one = is_one and not layout.has_absent
        name = (layout, tuple(self.forms.of(name) for name in layout.names), is_one)
        statement: Any = self._selects.get(name) if is_lasting else None
        if statement is None:
            columns = selected_columns(layout, self.model, self.forms, condition, self.names)
            if is_one:
                place = literal_column("1", Integer).label("place")
                statement = select(place, *columns).select_from(self.model).where(self._keys.is_one)
            else:
                wanted = self._keys.table(keys)
                own = self.absent_keys.own if layout.has_absent else []
                statement = select(wanted.c.place, *columns, *own)
                statement = statement.select_from(self._keys.joined(wanted))
                if layout.has_absent:
                    statement = self.absent_keys.with_absent(statement, wanted, self.names)
            if is_lasting:
                self._selects[name] = statement
        if is_one:
            return statement, self._keys.parameters_of_one(keys[0])
        return statement, self._keys.parameters(keys)

    def load(
        self, keys: Sequence[Key], *, unfiltered: bool = False
    ) -> tuple[Select[Any], dict[str, Any]]:
        """The SELECT of instances, each after its place, and its parameters.

        With ``unfiltered``, no listener of the session can add criteria to it.
        """
        wanted = self._keys.table(keys)
        statement: Any = select(wanted.c.place, self.model)
        if unfiltered:
            plain = select(wanted.c.place, *self.mapper.columns)
            statement = statement.from_statement(
                plain.select_from(self._keys.joined_tables(wanted))
            )
        else:
            statement = statement.select_from(self._keys.joined(wanted))
        return statement, self._keys.parameters(keys)

    @property
    def has_subclasses(self) -> bool:
        """Whether a row may be of a subclass. Subclasses may also be mapped later."""
        mapper = self.mapper
        return mapper.polymorphic_on is not None and len(list(mapper.self_and_descendants)) > 1

    def subclasses(self, keys: Sequence[Key]) -> tuple[Select[Any], dict[str, Any]] | None:
        """The SELECT of rows' places and discriminators; ``None`` if there is only one class."""
        discriminator = self.mapper.polymorphic_on
        if discriminator is None or not self.has_subclasses:
            return None
        wanted = self._keys.table(keys)
        statement: Any = select(wanted.c.place, discriminator)
        return statement.select_from(self._keys.joined(wanted)), self._keys.parameters(keys)

    def literals(self, given: Mapping[str, Any]) -> Select[Any]:
        """The SELECT of given values, in the form in which reads return these attributes."""
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
        wanted = self._keys.table(keys)
        columns: list[Any] = [wanted.c.place]
        for i, name in enumerate(names):
            attribute = getattr(self.model, name)
            columns += [self.forms.of(name).read(attribute).label(f"form_{i}"), attribute]
        statement: Any = select(*columns).select_from(self._keys.joined(wanted))
        return statement, self._keys.parameters(keys)

    # -- instances

    @cached_property
    def instances_come_with_values(self) -> bool:
        """Whether one SELECT can return both. It cannot with eager joins, which multiply rows."""
        return not any(relationship.lazy == "joined" for relationship in self.mapper.relationships)

    @property
    def maker(self) -> Instances | None:
        """Makes instances from the values alone, if loading does no more; else ``None``."""
        maker = self._maker
        return None if maker is None or maker.has_listeners else maker

    @cached_property
    def _maker(self) -> Instances | None:
        return Instances(self.mapper, self.dialect) if Instances.can_make(self.mapper) else None

    def foreign_column(self, expression: ColumnElement[Any]) -> str | None:
        """The first column in an expression that is not in one of this class's tables."""
        own = {c for table in self.mapper.tables for c in table.c}
        for element in visitors.iterate(expression):
            if isinstance(element, Column) and element not in own:
                return str(element)
        return None


_in_use: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
