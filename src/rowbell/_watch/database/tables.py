"""The key and the options of a table, for which its triggers are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, Table, event, text

from rowbell._identifiers import qualified, quote_identifier
from rowbell._watch.database.triggers import ForEach, TableTriggers, trigger_options
from rowbell._watch.values.key_hash import key_columns
from rowbell.errors import InvalidArgumentError, TriggerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Created = Callable[[Table, Connection], None]

Columns: TypeAlias = frozenset[str] | None
"""Names of a table's columns in the database; ``None`` for any column."""

_KINDS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """The options of a table's triggers.

    Attributes:
        for_each: The form. ``None`` means the row form for partitioned and replicated tables and
            for declared columns, and the statement form for all others.
        replicated: Whether the triggers fire for changes by logical replication.
        columns: The declared columns, by their names in the database; ``None`` for all.
        inserts: Whether the triggers fire for inserts.
    """

    for_each: ForEach | None = None
    replicated: bool = False
    columns: tuple[str, ...] | None = None
    inserts: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether the options need the row form."""
        return self.replicated or self.columns is not None

    def extending(self, before: TriggerOptions) -> TriggerOptions:
        """These options and those from before, for a table that both are declared for."""
        columns = None
        if before.columns is not None:
            columns = tuple(dict.fromkeys((*before.columns, *(self.columns or ()))))
        return TriggerOptions(
            self.for_each or before.for_each,
            self.replicated or before.replicated,
            columns,
            self.inserts or before.inserts,
        )

    def __post_init__(self) -> None:
        if self.needs_rows and self.for_each is ForEach.STATEMENT:
            what = "'row', which replicated tables and declared columns need"
            raise InvalidArgumentError("for_each", "statement", what)


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A watched table, with what the database is queried with.

    Attributes:
        name: Its name.
        schema: Its schema; ``None`` if the connection's ``search_path`` decides.
        options: The argument that its triggers must have.
        mapped: The names of its mapped columns.
    """

    name: str
    schema: str | None
    options: bytes
    mapped: frozenset[str] = frozenset()

    @property
    def inserts(self) -> bool:
        """Whether its triggers must fire for inserts."""
        return b'"inserts":true' in self.options

    @property
    def qualified(self) -> str:
        """Its name as SQL."""
        return qualified(self.schema, self.name)


class TableEntry(NamedTuple):
    """A table as a listener asks the database about it.

    Attributes:
        oid: The table's oid.
        options: The argument that its triggers must have.
        columns: The columns that are watched in it.
    """

    oid: int
    options: bytes
    columns: frozenset[str]

    @classmethod
    def of(cls, oid: int, table: WatchedTable, columns: Columns) -> TableEntry:
        """The entry of a watched table; without columns those that are mapped."""
        return cls(oid, table.options, table.mapped if columns is None else columns)


class _Declared:
    """Stores a table's options, as a listener to the event ``after_create``.

    They are not in ``Table.info``, which Alembic writes into migrations. Copies of the table
    (``to_metadata()``) have this listener too.
    """

    def __init__(self, options: TriggerOptions, created: Created | None) -> None:
        self.options = options
        self._created = created

    def __call__(self, table: Table, connection: Connection, **_: object) -> None:
        if self._created is not None:
            self._created(table, connection)


def declare(table: Table, options: TriggerOptions, created: Created | None = None) -> None:
    """Declare a table's options. They replace earlier ones.

    Args:
        table: The table.
        options: The options.
        created: Called with the table and the connection after ``create_all()`` has created it.
    """
    before = _declared(table)
    if before is not None:
        event.remove(table, "after_create", before)
    event.listen(table, "after_create", _Declared(options, created), propagate=True)


def is_declared(table: Table) -> bool:
    """Whether options were declared for a table."""
    return _declared(table) is not None


def options_of(table: Table) -> TriggerOptions:
    """The options that were declared for a table, or the defaults."""
    declared = _declared(table)
    return TriggerOptions() if declared is None else declared.options


def _declared(table: Table) -> _Declared | None:
    listeners = (each for each in table.dispatch.after_create if isinstance(each, _Declared))
    return next(listeners, None)


def declared_columns(table: Table) -> tuple[str, ...] | None:
    """The declared columns, by their names in the database; ``None`` for all."""
    columns = options_of(table).columns
    return None if columns is None else tuple(sorted(columns))


def options_argument(table: Table) -> bytes:
    """The argument that the table's triggers must have."""
    key = key_columns(table.primary_key.columns)
    inserts = options_of(table).inserts
    return trigger_options(key, declared_columns(table), inserts=inserts).encode()


def table_triggers(connection: Connection, table: Table) -> TableTriggers:
    """The triggers that a table should have in this database.

    Only this function uses the ``search_path`` to find the table; ``resolve`` uses the oid.

    Raises:
        TriggerError: The table does not exist.
    """
    options = options_of(table)
    schema = connection.schema_for_object(table)
    triggers = TableTriggers(
        schema,
        table.name,
        key_columns(table.primary_key.columns),
        options.for_each,
        options.replicated,
        declared_columns(table),
        options.inserts,
    )
    oid = table_oid(connection, schema, table.name)
    if oid is None:
        raise TriggerError(triggers.name, "the table does not exist in this database")
    return replace(triggers, oid=oid)


_FIND: Final = text(
    "SELECT CASE WHEN CAST(:schema AS pg_catalog.text) IS NULL"
    " THEN CAST(pg_catalog.to_regclass(CAST(:name AS pg_catalog.text)) AS pg_catalog.oid)"
    " ELSE (SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
    "  ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    "  WHERE n.nspname OPERATOR(pg_catalog.=) CAST(:schema AS pg_catalog.text)"
    "  AND c.relname OPERATOR(pg_catalog.=) CAST(:table AS pg_catalog.text)) END"
)


def table_oid(connection: Connection, schema: str | None, table: str) -> int | None:
    """The oid of a table; ``None`` if it does not exist.

    Without a schema it is looked up in the ``search_path``. No right on the schema is needed.
    """
    names = {"schema": schema, "table": table, "name": quote_identifier(table)}
    oid: int | None = connection.scalar(_FIND, names)
    return oid


_LOCATE: Final = text(
    "SELECT n.nspname AS schema, c.relkind::text AS kind, c.relispartition AS is_partition"
    " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = :oid"
)


def located(connection: Connection, triggers: TableTriggers) -> TableTriggers:
    """The triggers, with the table's schema, whatever the table is."""
    found = connection.execute(_LOCATE, {"oid": triggers.oid}).one()
    return replace(triggers, schema=found.schema)


def resolve(connection: Connection, triggers: TableTriggers) -> TableTriggers:
    """The triggers, with the table's schema and the form that the table needs.

    Raises:
        TriggerError: The table cannot have these triggers.
    """
    schema, kind, is_partition = connection.execute(_LOCATE, {"oid": triggers.oid}).one()
    if is_partition:
        why = "it is a partition; install the triggers on the partitioned table"
        raise TriggerError(triggers.name, why)
    if kind not in {"r", "p"}:
        what = _KINDS.get(kind, "not a table")
        why = f"it is {what}, and only ordinary and partitioned tables have row triggers; wait for "
        raise TriggerError(triggers.name, why + "rows of the tables behind it, or poll")
    is_partitioned = kind == "p"
    refuse_impossible(triggers.name, triggers.key, triggers.for_each, is_partitioned=is_partitioned)
    by_row = is_partitioned or triggers.needs_rows
    return replace(triggers, schema=schema, for_each=ForEach.ROW if by_row else triggers.for_each)


def refuse_impossible(
    table: str, key: Collection[object], for_each: ForEach | None, *, is_partitioned: bool
) -> None:
    """Refuse a table without a primary key, and the statement form for a partitioned table.

    Raises:
        TriggerError: It is one of these.
    """
    if not key:
        raise TriggerError(table, "it has no primary key to identify its rows")
    if is_partitioned and for_each is ForEach.STATEMENT:
        raise TriggerError(table, 'a partitioned table needs for_each="row"')
