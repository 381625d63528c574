"""The forms of a class's columns: how values are read, by the column's type in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, column, func, join, literal_column, select, values
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import JSON, TypeDecorator

from rowbell._watch.values import forms
from rowbell._watch.values.literal import is_read_as_given
from rowbell._watch.values.types import ColumnType, column_types, forget_types

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.orm import Mapper
    from sqlalchemy.types import TypeEngine

    from rowbell._watch.rows.columns import MappedColumns
    from rowbell._watch.values.forms import Form

    Rule = Callable[[Any, Any], bool]


class ColumnForms:
    """The forms of one class's columns. Without PostgreSQL, the model's types decide.

    Args:
        mapper: The class's mapper.
        dialect: The dialect that its rows are read with.
        columns: Its columns.
        execution_options: The execution options of its statements.

    Attributes:
        types: The database types of its attributes' columns, as far as they are known.
    """

    def __init__(
        self,
        mapper: Mapper[Any],
        dialect: Dialect,
        columns: MappedColumns,
        execution_options: Mapping[str, Any],
    ) -> None:
        self.types: dict[str, ColumnType] = {}
        self._mapper = mapper
        self._dialect = dialect
        self._properties = columns.properties
        self._execution_options = execution_options
        self._may_learn_all = True
        self._rules: dict[tuple[str, ...], tuple[Rule | None, ...]] = {}

    def learn(self, connection: Connection, names: Sequence[str]) -> None:
        """Query the types of the columns of those attributes, unless they are known.

        The types are those of the database: the model of a ``citext`` column may say ``String``.
        All are queried at once, until that fails. Then only the needed ones are queried, because
        another column may have been dropped.
        """
        unknown = [name for name in names if name not in self.types]
        if not unknown or self._dialect.name != "postgresql":
            return
        if self._may_learn_all:
            unknown = [name for name in self._properties if name not in self.types]
        asked = (func.pg_catalog.pg_typeof(self._properties[name].columns[0]) for name in unknown)
        # Not by the ORM, which adds criteria: exactly one row of NULLs must be returned.
        one = values(column("one", Integer), name="one").data([(1,)])
        none = join(one, self._mapper.persist_selectable, literal_column("false"), isouter=True)
        asking = select(*(sql_cast(type_, OID) for type_ in asked)).select_from(none)
        try:
            oids = connection.execute(asking, execution_options=self._execution_options).one()
        except DBAPIError:
            self._may_learn_all = False
            raise
        known = column_types(connection, oids)
        self.types.update((name, known[oid]) for name, oid in zip(unknown, oids, strict=True))
        self._rules.clear()

    def forget(self) -> None:
        """Forget the types, so that they are queried again: the table may have changed."""
        self.types = {}
        self._rules.clear()
        forget_types(self._dialect)

    def of(self, name: str) -> Form:
        """The form that an attribute is read in."""
        prop = self._properties[name]
        if self._dialect.name != "postgresql":
            type_: TypeEngine[Any] = prop.columns[0].type
            while isinstance(type_, TypeDecorator):
                type_ = type_.impl_instance
            return forms.DOCUMENT_AS_IT_IS if isinstance(type_, JSON) else forms.AS_IT_IS
        known = self.types.get(name)
        form = known.form if known else forms.AS_IT_IS
        # A deferred column may be large.
        return forms.IMAGE if prop.deferred and form is forms.AS_IT_IS else form

    def rules(self, names: tuple[str, ...]) -> tuple[Rule | None, ...]:
        """How the values of those attributes are compared."""
        rules = self._rules.get(names)
        if rules is None:
            rules = self._rules[names] = tuple(self.of(name).differ for name in names)
        return rules

    def unread(self, names: Sequence[str]) -> tuple[str, ...]:
        """The attributes whose form is not the value itself."""
        return tuple(name for name in names if not self.of(name).is_value)

    def known_read(self, name: str, value: object) -> object:
        """What a read would return for this value of the attribute, or ``UNKNOWN``."""
        form = self.of(name)
        if name not in self.types or form.given is None:
            return forms.UNKNOWN
        if not is_read_as_given(self._properties[name].columns[0].type, value):
            return forms.UNKNOWN
        return None if value is None else form.given(value)

    def is_opaque(self, name: str) -> bool:
        """Whether only the attribute's type, defined by the application, can compare its values."""
        type_ = self._properties[name].columns[0].type
        own = not type(type_).__module__.startswith("sqlalchemy.")
        return own or isinstance(type_, TypeDecorator)
