"""The decorator ``@watched``, by which a model declares its triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from rowbell._mapping import mapper_of, tables_of
from rowbell._watch.database.install import KeyWithoutHashError, install_triggers
from rowbell._watch.database.tables import TriggerOptions, options_of
from rowbell._watch.database.tables import declare as declare_options
from rowbell._watch.database.triggers import ForEach
from rowbell._watch.rows.columns import MappedColumns
from rowbell._watch.state import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Table
    from sqlalchemy.orm import QueryableAttribute

ModelT = TypeVar("ModelT", bound=type[Any])


@overload
def watched(model: ModelT, /) -> ModelT: ...
@overload
def watched(
    *,
    columns: Sequence[str | QueryableAttribute[Any]] | None = None,
    for_each: ForEach | str | None = None,
    replicated: bool = False,
    inserts: bool = False,
) -> Callable[[ModelT], ModelT]: ...
def watched(
    model: ModelT | None = None,
    /,
    *,
    columns: Sequence[str | QueryableAttribute[Any]] | None = None,
    for_each: ForEach | str | None = None,
    replicated: bool = False,
    inserts: bool = False,
) -> ModelT | Callable[[ModelT], ModelT]:
    """Declare that waits watch a model's rows: ``create_all()`` then installs its triggers.

    If migrations create the database, use ``op.create_row_triggers()``. In both cases
    ``install_triggers()`` uses the options that are declared here.

    Args:
        model: The mapped class, if the decorator is used without parentheses.
        columns: The columns worth watching, as names or mapped attributes; by default all. An
            UPDATE that changes none of them costs very little. A wait watches these columns unless
            it names others. A wait that names others is polled.
        for_each: ``"statement"`` (the default for ordinary tables) or ``"row"`` (the default for
            partitioned tables, for replicated tables, and with ``columns``).
        replicated: Also fire for changes by logical replication.
        inserts: Also fire for inserts, so that a wait for a row that does not exist, and
            ``changes()``, need no polling. It costs each INSERT about what an UPDATE costs.

    Returns:
        The class itself.

    Raises:
        UnmappedModelError: The class is not mapped to tables.
        InvalidColumnError: One of ``columns`` is not a column of the class.
        InvalidArgumentError: ``for_each`` is neither, or it is ``"statement"`` with ``columns`` or
            ``replicated``.

    Example:
        .. code-block:: python

            @rowbell.watched
            class Order(Base):
                __tablename__ = "orders"
                id: Mapped[int] = mapped_column(primary_key=True)
                status: Mapped[str]
    """
    form = ForEach.of(for_each)

    def declare(model: ModelT) -> ModelT:
        declared: dict[Table, list[str]] | None = None
        if columns is not None:
            attributes = MappedColumns(mapper_of(model))
            declared = attributes.by_table(attributes.resolve(columns))
        parent = mapper_of(model).inherits
        inherited = set(parent.tables) if parent is not None else set[Any]()
        for table in tables_of([model]):
            own = None if declared is None else tuple(declared.get(table, ()))
            options = TriggerOptions(form, replicated, own, inserts)
            if table in inherited:  # a subclass may extend its parent's declaration, not narrow it
                options = options.extending(options_of(table))
            declare_options(table, options, _install)
        return model

    return declare if model is None else declare(model)


def _install(table: Table, connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    try:
        install_triggers(connection, table)
    except KeyWithoutHashError as error:
        # The table is usable without triggers: its rows are polled, and waits say why.
        logger.warning("rowbell: no triggers are created with the table: %s", error)
