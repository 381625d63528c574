"""The 64-bit hash of a row's primary key, which identifies the row in triggers and registrations.

Only SQL computes it: the trigger for the rows that a statement changed, a read for the row that
it found. Both use ``hash_record_extended()`` (since PostgreSQL 14), which depends only on the
values and follows the equality of their types. Two keys with the same hash cost a needless read,
never a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import BigInteger, Numeric, Text, cast, func, literal_column, type_coerce
from sqlalchemy.dialects.postgresql import BIT, MONEY

from rowbell._identifiers import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Column, ColumnElement, Table
    from sqlalchemy.types import TypeEngine

_CASTS: Final = ((BIT, "text"), (MONEY, "numeric"))
"""The key types without a hash function, and the types that they are hashed as."""

_CAST_TYPES: Final[dict[str, TypeEngine[Any]]] = {"text": Text(), "numeric": Numeric()}


WHOLE_TABLE: Final = -(2**63)
"""In the place of a row's hash: all rows of a table, also those that will be inserted."""


class RowId(NamedTuple):
    """The row id: what triggers and registrations identify a row by.

    Attributes:
        table_oid: The table's oid.
        key_hash: The hash of its primary key.
    """

    table_oid: int
    key_hash: int

    @property
    def is_whole_table(self) -> bool:
        """Whether it stands for all rows of the table."""
        return self.key_hash == WHOLE_TABLE


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column of a primary key, and how it is hashed.

    Attributes:
        name: The column's name in the database.
        cast: The type that it is cast to for the hash, if its own type has no hash function.
    """

    name: str
    cast: str | None = None

    def of(self, row: str) -> str:
        """The column of that row, as SQL."""
        column = f"{row}.{quote_identifier(self.name)}"
        return f"{column}::{self.cast}" if self.cast else column


def key_columns(columns: Iterable[Column[Any]]) -> tuple[KeyColumn, ...]:
    """The columns of a primary key, sorted by name.

    Sorted, because a model may list them in another order than the database.
    """
    return tuple(
        KeyColumn(
            column.name,
            next((cast for type_, cast in _CASTS if isinstance(column.type, type_)), None),
        )
        for column in sorted(columns, key=lambda column: column.name)
    )


def key_hash(row: str, key: tuple[KeyColumn, ...]) -> str:
    """The hash of that row's key, as text for a trigger function."""
    return f"hash_record_extended(ROW({', '.join(column.of(row) for column in key)}), 0)"


def key_hash_column(
    table: Table, value: Callable[[Column[Any]], ColumnElement[Any]] | None = None
) -> ColumnElement[int]:
    """The same hash of a table's own rows, as a column for a SELECT.

    Args:
        table: The table.
        value: Gives the value of a column of the key, by default the column itself.
    """
    key: list[ColumnElement[Any]] = []
    for part in key_columns(table.primary_key.columns):
        column = table.c[part.name]
        of_key = column if value is None else value(column)
        key.append(cast(of_key, _CAST_TYPES[part.cast]) if part.cast else of_key)
    hashed = func.pg_catalog.hash_record_extended(func.ROW(*key), literal_column("0"))
    return type_coerce(hashed, BigInteger())
