"""All rows of a mapped class and of its subclasses: the tables as a whole."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Integer, Select, Table, literal_column, select, type_coerce

from rowbell._watch.database.tables import options_of
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell._watch.rows.row_select import Layout, evidence_columns
from rowbell._watch.values.key_hash import WHOLE_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Mapper

    from rowbell._watch.database.tables import WatchedTable


class WholeTables(MappedRows):
    """The tables of a class and of its subclasses."""

    @classmethod
    def mappers(cls, mapper: Mapper[Any]) -> tuple[Mapper[Any], ...]:
        """The mappers of the class and of its subclasses. More may be mapped later."""
        return tuple(mapper.self_and_descendants)

    @cached_property
    def _by_table(self) -> dict[Table, WatchedTable]:
        found: dict[Table, WatchedTable] = {}
        for mapper in self.mappers(self.mapper):
            rows = MappedRows.of(mapper.class_, self.dialect, self.schema_map)
            for table, watched in zip(rows.tables, rows.watched_tables, strict=True):
                found.setdefault(table, watched)
        return found

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables."""
        return tuple(self._by_table)

    @cached_property
    def watched_tables(self) -> tuple[WatchedTable, ...]:
        """The tables, with the options that their triggers must have."""
        return tuple(self._by_table.values())

    def registered(self, names: Sequence[str]) -> tuple[None, ...]:  # noqa: ARG002  # any column
        """For each table, the columns that are registered: any."""
        return (None,) * len(self.tables)

    def never_armed(self, names: Sequence[str]) -> Reason | None:  # noqa: ARG002  # any column
        """Why triggers can never notify of these tables; ``None`` if they can."""
        if not self.tables or not all(table.primary_key.columns for table in self.tables):
            return Reason.NO_KEY
        if not all(options_of(table).inserts for table in self.tables):
            return Reason.INSERTS_NOT_DECLARED
        return self.never_provable

    def evidence(self) -> tuple[Select[Any], Layout]:
        """The SELECT of one row with the evidence, and its layout."""

        def whole(_: Table) -> ColumnElement[int]:
            return type_coerce(literal_column(f"'{WHOLE_TABLE}'::pg_catalog.int8"), BigInteger())

        place = literal_column("1", Integer).label("place")
        return select(place, *evidence_columns(self.names, whole)), Layout(
            (), tables=len(self.tables)
        )
