"""From tables to the keys and options that their triggers are made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, Connection, Table, text
from sqlalchemy.dialects.postgresql import BIT, MONEY
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.types import (
    Boolean,
    Date,
    DateTime,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Time,
    TypeDecorator,
    Uuid,
)

from rowbell.errors import TriggerError
from rowbell.watch.triggers import ForEach, TableColumn, TableTriggers

if TYPE_CHECKING:
    from collections.abc import Iterable

INFO_KEY: Final = "rowbell"
"""Where a table's ``info`` keeps its ``TriggerOptions``."""

_CASTS: Final = ((BIT, "text"), (MONEY, "numeric"))  # the key types that have no hash function

_BY_VALUE: Final = (
    *(Boolean, Integer, Numeric, Float, Uuid, LargeBinary),
    *(Date, DateTime, Time, Interval),
)


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """How a table's triggers are made.

    Attributes:
        for_each: The form; ``None`` takes the row form for partitioned and replicated tables
            and for declared columns, and the statement form for all others.
        replicated: Whether changes that arrive by logical replication count.
        columns: The columns worth watching, by their names in the database; ``None``: all.
    """

    for_each: ForEach | None = None
    replicated: bool = False
    columns: tuple[str, ...] | None = None


def options_of(table: Table) -> TriggerOptions:
    """The options that were declared for a table, or the default ones."""
    options: TriggerOptions | None = table.info.get(INFO_KEY)
    return options or TriggerOptions()


def key_columns(columns: Iterable[Column[Any]]) -> tuple[TableColumn, ...]:
    """Those columns as the key of triggers, hashed alike by the trigger and by the reader.

    They are sorted by name: a model may name them in another order than the database.
    """
    return tuple(
        TableColumn(
            column.name,
            next((cast for type_, cast in _CASTS if isinstance(column.type, type_)), None),
        )
        for column in sorted(columns, key=lambda column: column.name)
    )


def declared_columns(table: Table) -> tuple[TableColumn, ...] | None:
    """The columns worth watching, as triggers compare them; ``None``: all."""
    columns = options_of(table).columns
    if columns is None:
        return None
    return tuple(
        TableColumn(name, None if _is_compared_by_value(table.columns[name]) else "text")
        for name in sorted(columns)
    )


def _is_compared_by_value(column: Column[Any]) -> bool:
    """Whether equal values of that type are the same to a wait too.

    Not so for case-insensitive text, for boxes of one area, or for json, which has no equality.
    """
    impl = column.type.dialect_impl(PGDialect())  # type: ignore[no-untyped-call]
    while isinstance(impl, TypeDecorator):
        impl = impl.impl_instance
    return isinstance(impl, _BY_VALUE)


def table_triggers(connection: Connection, table: Table) -> TableTriggers:
    """The triggers that a table should have in that database."""
    options = options_of(table)
    schema = connection.schema_for_object(table)
    triggers = TableTriggers(
        schema,
        table.name,
        key_columns(table.primary_key.columns),
        options.for_each or ForEach.STATEMENT,
        options.replicated,
        declared_columns(table),
    )
    return resolve(connection, triggers, options.for_each)


def resolve(
    connection: Connection, triggers: TableTriggers, for_each: ForEach | None
) -> TableTriggers:
    """The same triggers with the form that the table in the database wants.

    Raises:
        TriggerError: The table is not there, or cannot have such triggers.
    """
    row = connection.execute(
        text("SELECT relkind::text, relispartition FROM pg_class WHERE oid = to_regclass(:name)"),
        {"name": triggers.name},
    ).one_or_none()
    if row is None:
        raise TriggerError(triggers.name, "there is no such table in this database")
    kind, is_partition = row
    if is_partition:
        why = "it is a partition; install the triggers on the partitioned table"
        raise TriggerError(triggers.name, why)
    if kind not in {"r", "p"}:
        raise TriggerError(triggers.name, "only ordinary and partitioned tables can be watched")
    if not triggers.key:
        raise TriggerError(triggers.name, "it has no primary key, so no row of it has a name")
    by_row = kind == "p" or triggers.replicated or triggers.declared is not None
    if by_row and for_each is ForEach.STATEMENT:
        why = 'partitioned and replicated tables, and declared columns, need for_each="row"'
        raise TriggerError(triggers.name, why)
    return replace(triggers, for_each=ForEach.ROW if by_row else for_each or ForEach.STATEMENT)
