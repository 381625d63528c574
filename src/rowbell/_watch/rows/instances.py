"""Instances made from a row's values, without a session.

If loading a mapped class only sets its columns, this module does the same at a quarter of the
cost, from the same read that was compared. The ORM loads all other classes: those with
inheritance, load events, composites, deferred columns, SQL expressions, types that are selected
through an expression, or eager relationships.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column
from sqlalchemy.orm.attributes import instance_state, manager_of_class

from rowbell._primary_key import key_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Dialect
    from sqlalchemy.orm import ColumnProperty, Mapper

_LAZY = frozenset(
    {"select", True, "raise", "raise_on_sql", "noload", "dynamic", "write_only", None}
)
"""The loader strategies of relationships that load nothing until they are accessed."""


class Instances:
    """Makes instances of one mapped class.

    Args:
        mapper: The mapper of a class for which ``can_make()`` is true.
        dialect: The dialect that the values were read with.

    Attributes:
        names: The attributes that it needs the values of, in this order.
    """

    def __init__(self, mapper: Mapper[Any], dialect: Dialect) -> None:
        self.names: tuple[str, ...] = tuple(prop.key for prop in mapper.column_attrs)
        self._key_names = key_names(mapper)
        self._identity_key = mapper.identity_key_from_primary_key
        self._manager = manager_of_class(mapper.class_)
        self._dialect = dialect
        self._types = [prop.columns[0].type for prop in mapper.column_attrs]
        self._processors: dict[tuple[Any, ...], list[Callable[[Any], Any] | None]] = {}

    @staticmethod
    def can_make(mapper: Mapper[Any]) -> bool:
        """Whether loading the class only sets its columns."""
        return (
            mapper.inherits is None
            and mapper.polymorphic_on is None
            and all(map(_is_plain, mapper.column_attrs))
            and all(r.lazy in _LAZY for r in mapper.relationships)
        )

    @property
    def has_listeners(self) -> bool:
        """Whether load events of the class have listeners. They may be added at any time."""
        dispatch: Any = self._manager.dispatch
        return bool(dispatch.load or dispatch.refresh)

    def make(self, values: Sequence[Any], type_codes: tuple[Any, ...]) -> Any:
        """A detached instance.

        Args:
            values: The row's values as the driver returned them, in the order of ``names``.
            type_codes: The driver's codes of their types (PEP 249's ``type_code``).
        """
        processors = self._processors.get(type_codes)
        if processors is None:
            pairs = zip(self._types, type_codes, strict=True)
            processors = [self._processor(type_, code) for type_, code in pairs]
            self._processors[type_codes] = processors
        instance = self._manager.new_instance()
        loaded = vars(instance)
        for name, value, process in zip(self.names, values, processors, strict=True):
            loaded[name] = process(value) if process else value
        # A detached instance has a key and no session.
        key = self._identity_key(tuple([loaded[name] for name in self._key_names]))
        instance_state(instance).key = key
        return instance

    def _processor(self, type_: Any, code: Any) -> Callable[[Any], Any] | None:
        """The function that SQLAlchemy applies to values of that type."""
        processor: Callable[[Any], Any] | None = type_.dialect_impl(self._dialect).result_processor(
            self._dialect, code
        )
        return processor


def _is_plain(prop: ColumnProperty[Any]) -> bool:
    column = prop.columns[0]
    return (
        all(isinstance(column, Column) for column in prop.columns)
        and not prop.deferred
        and column.type.column_expression(column) is None
    )
