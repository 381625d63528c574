"""The primary keys of the rows that a SELECT reads, as a table to join with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Integer, and_, bindparam, column, func, join, values
from sqlalchemy.orm import join as orm_join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.selectable import FromClause

    from rowbell._primary_key import Key


class WantedKeys:
    """The keys of one class's rows. In its table, the column ``place`` numbers them from 1.

    Args:
        mapper: The class's mapper.
        on_postgresql: Whether the database is PostgreSQL.
    """

    def __init__(self, mapper: Mapper[Any], *, on_postgresql: bool) -> None:
        self._mapper = mapper
        self._on_postgresql = on_postgresql

    @cached_property
    def are_arrays(self) -> bool:
        """Whether keys are bound as arrays, so that the statement is the same for any number."""
        key = self._mapper.primary_key
        return self._on_postgresql and not any(isinstance(c.type, ARRAY) for c in key)

    def table(self, keys: Sequence[Key]) -> FromClause:
        """The keys as a table."""
        parts = [column(f"key_{i}", c.type) for i, c in enumerate(self._mapper.primary_key)]
        if self.are_arrays:
            arrays = [bindparam(part.name, type_=ARRAY(part.type)) for part in parts]
            # With several arguments, unnest is part of the grammar and must not have a schema.
            unnest = (func if len(arrays) > 1 else func.pg_catalog).unnest(*arrays)
            unnested = unnest.table_valued(*parts, with_ordinality="place")
            return unnested.render_derived(name="wanted")
        # VALUES needs at least one row; no key consists of NULLs.
        rows = [(place, *key) for place, key in enumerate(keys or [(None,) * len(parts)], 1)]
        return values(column("place", Integer), *parts, name="wanted").data(rows).cte("wanted")

    def parameters(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The parameters of a statement with that table."""
        if not self.are_arrays:
            return {}
        parts = range(len(self._mapper.primary_key))
        return {f"key_{i}": [key[i] for key in keys] for i in parts}

    @property
    def is_one(self) -> ColumnElement[bool]:
        """The condition that a row has the only key. The server plans it faster than a join."""
        pairs = enumerate(self._mapper.primary_key)
        return and_(*(c == bindparam(f"key_{i}", type_=c.type) for i, c in pairs))

    @staticmethod
    def parameters_of_one(key: Key) -> dict[str, Any]:
        """The parameters of that condition."""
        return {f"key_{i}": value for i, value in enumerate(key)}

    def joined(self, wanted: FromClause) -> FromClause:
        """The table joined with the class."""
        return orm_join(wanted, self._mapper, self._condition(wanted))

    def joined_tables(self, wanted: FromClause) -> FromClause:
        """The table joined with the class's tables. Listeners cannot add criteria to it."""
        return join(wanted, self._mapper.selectable, self._condition(wanted))

    def _condition(self, wanted: FromClause) -> Any:
        pairs = enumerate(self._mapper.primary_key)
        return and_(*(c == wanted.c[f"key_{i}"] for i, c in pairs))
