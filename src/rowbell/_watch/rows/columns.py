"""The columns of a mapped class: names that callers give, attributes, and database columns."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, ColumnElement, Table
from sqlalchemy.orm import ColumnProperty, CompositeProperty, Mapper, QueryableAttribute
from sqlalchemy.sql import visitors

from rowbell._watch.database.tables import options_of
from rowbell.errors import InvalidColumnError

if TYPE_CHECKING:
    from collections.abc import Sequence


class MappedColumns:
    """The attributes of a class that are mapped to columns of its tables.

    Args:
        mapper: The class's mapper.

    Attributes:
        properties: These attributes, by name.
    """

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._mapper = mapper
        self._model: type[Any] = mapper.class_
        self.properties: dict[str, ColumnProperty[Any]] = {
            prop.key: prop
            for prop in mapper.column_attrs
            if isinstance(next(iter(prop.columns)), Column)
        }

    def resolve(self, wanted: Sequence[str | QueryableAttribute[Any]] | None) -> tuple[str, ...]:
        """The attributes that these names and attributes mean.

        ``None`` means those that the model declares, by default all.

        Raises:
            InvalidColumnError: One of them is not a column of the class.
            TypeError: A single name was given instead of a sequence.
        """
        if wanted is None:
            return self.declared
        if isinstance(wanted, str | QueryableAttribute):
            raise TypeError(f"`columns` must be a sequence of columns: columns=[{wanted!r}]")
        names: dict[str, None] = {}
        for one in wanted:
            names.update(dict.fromkeys(self._resolve(one)))
        if not names:
            why = "`columns` must name at least one column"
            raise InvalidColumnError(self._model, None, self.properties, why)
        return tuple(names)

    @cached_property
    def declared(self) -> tuple[str, ...]:
        """The attributes whose changes are notified, if the triggers are as declared."""
        return tuple(
            name for name, prop in self.properties.items() if all(map(_is_declared, prop.columns))
        )

    def of(self, expression: ColumnElement[Any]) -> tuple[str, ...]:
        """The attributes in an SQL expression; all if there are none in it."""
        named = {e for e in visitors.iterate(expression) if isinstance(e, Column)}
        found = [
            name
            for name, prop in self.properties.items()
            if any(isinstance(c, Column) and c in named for c in prop.columns)
        ]
        return tuple(found) or tuple(self.properties)

    def by_table(self, names: Sequence[str]) -> dict[Table, list[str]]:
        """The database columns of those attributes, by table."""
        found: dict[Table, list[str]] = {}
        for column in (c for name in names for c in self.properties[name].columns):
            table = _table_of(column)
            if isinstance(column, Column) and table is not None:
                found.setdefault(table, []).append(column.name)
        return found

    def one(self, name: str) -> str:
        """The attribute that a name means.

        Raises:
            InvalidColumnError: It means no attribute, or several.
        """
        resolved, *more = self._resolve(name)
        if more:
            why = f"is a composite of {', '.join([resolved, *more])}, not one column,"
            raise InvalidColumnError(self._model, name, self.properties, why)
        return resolved

    def _resolve(self, wanted: object) -> tuple[str, ...]:
        name = wanted
        if isinstance(wanted, QueryableAttribute):
            owner = wanted.class_
            related = isinstance(owner, type) and (
                issubclass(self._model, owner) or issubclass(owner, self._model)
            )
            name = wanted.key if related else None
        if not isinstance(name, str):
            raise InvalidColumnError(self._model, wanted, self.properties)
        synonym = self._mapper.synonyms.get(name)
        name = synonym.name if synonym is not None else name
        composite = self._mapper.composites.get(name)
        if isinstance(composite, CompositeProperty):
            return tuple(p.key for p in composite.props)
        if name not in self.properties:
            raise InvalidColumnError(self._model, wanted, self.properties)
        return (name,)

    def registered(self, names: Sequence[str], table: Table) -> frozenset[str] | None:
        """The columns of a table that are registered for these attributes.

        Returns:
            The columns' names in the database; ``None`` for any column.
        """
        if len(names) == len(self.properties):
            return None
        columns = [c for name in names for c in self.properties[name].columns]
        own = [c for c in columns if isinstance(c, Column) and c.table is table]
        return frozenset(column.name for column in own)


def _is_declared(column: object) -> bool:
    """Whether the column is declared, or its table declares no columns."""
    table = _table_of(column)
    if not isinstance(column, Column) or table is None:
        return True
    declared = options_of(table).columns
    return declared is None or column.name in declared or column.primary_key


def _table_of(column: object) -> Table | None:
    """The column's table; a column of a subquery has none."""
    table: object = column.table if isinstance(column, Column) else None
    return table if isinstance(table, Table) else None
