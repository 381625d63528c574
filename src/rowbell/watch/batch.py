"""One SELECT for many rows of a class, and what comes of it for each that is waited for.

Synchronous, on SQLAlchemy's own ``Connection``: a read is one step into its greenlet, not one
for each call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from rowbell.errors import NotFoundError
from rowbell.watch.watch import Reading, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from rowbell.watch.rows import MappedRows


def read(
    connection: Connection,
    rows: MappedRows,
    watches: Sequence[Watch],
    *,
    evidence: bool,
    instances: bool = False,
) -> list[Reading | None]:
    """Read the rows of watches of one class and one condition with one SELECT.

    Args:
        connection: Where to read.
        rows: The rows of the class.
        watches: Whose rows.
        evidence: Whether to read what arming needs.
        instances: Whether to load the instances along with the values.

    Returns:
        A reading for each watch, ``None`` where there is no row.
    """
    maker = rows.maker if instances else None
    by_orm = instances and maker is None
    names = maker.names if maker else _columns(rows, watches)
    condition = watches[0].condition
    statement, parameters = rows.read(
        [watch.key for watch in watches],
        names,
        until=condition,
        evidence=evidence,
        instances=by_orm,
    )
    options: dict[str, Any] = {"schema_translate_map": rows.schema_map or None}
    found: Sequence[Any]
    codes: tuple[Any, ...] = ()
    first = 1 + by_orm
    end = first + len(names)
    if by_orm:
        with _session(connection) as session:
            found = session.execute(statement, parameters, execution_options=options).all()
            session.expunge_all()
    else:
        result = connection.execute(statement, parameters, execution_options=options)
        if maker and result.cursor is not None:
            codes = tuple(column[1] for column in result.cursor.description[first:end])
        found = result.all()
    readings: list[Reading | None] = [None] * len(watches)
    for row in found:
        place = row[0] - 1
        columns, values = watches[place].columns, tuple(row[first:end])
        instance = maker.make(values, codes) if maker else row[1] if by_orm else None
        if columns != names:
            by_name = dict(zip(names, values, strict=True))
            values = tuple(by_name[name] for name in columns)
        readings[place] = Reading(
            values,
            until=condition is not None and bool(row[end]),
            instance=instance,
            evidence=rows.evidence_of(row) if evidence else None,
        )
    return readings


def _columns(rows: MappedRows, watches: Sequence[Watch]) -> tuple[str, ...]:
    """The columns that any of the watches wants, in the class's order."""
    wanted = {watch.columns for watch in watches}
    if len(wanted) == 1:
        return watches[0].columns
    names = {name for columns in wanted for name in columns}
    return tuple(name for name in rows.columns.properties if name in names)


def finish(connection: Connection, rows: MappedRows, ended: Sequence[tuple[Watch, Reading]]) -> int:
    """End watches whose row has changed, with an instance where one is wanted.

    A predicate is asked here; where it says no, the watch goes on.

    Returns:
        The number of statements that it took.
    """
    shared = Counter(() if rows.maker else (id(reading.instance) for _, reading in ended))
    wanting: list[Watch] = []
    for watch, reading in ended:
        if reading.instance is not None:
            _decide(watch, reading.instance, alone=shared[id(reading.instance)] <= 1)
        elif watch.wants_instance or watch.predicate is not None:
            wanting.append(watch)
        else:
            watch.finish(None)
    queries = 0
    for group in grouped(wanting, lambda watch: tuple(map(id, watch.options))):
        statement, parameters = rows.load([watch.key for watch in group])
        options: dict[str, Any] = {"schema_translate_map": rows.schema_map or None}
        with _session(connection) as session:
            result = session.execute(
                statement.options(*group[0].options), parameters, execution_options=options
            )
            instances = dict(tuple(row) for row in result.unique())
            session.expunge_all()
        queries += 1
        for place, watch in enumerate(group, 1):
            _decide(watch, instances.get(place), alone=False)
    return queries


def _session(connection: Connection) -> Session:
    """A session to load with, which leaves the connection as it was."""
    return Session(connection, join_transaction_mode="rollback_only")


def _decide(watch: Watch, instance: Any, *, alone: bool) -> None:
    """Finish a watch with an instance, if its predicate agrees.

    Only an instance that nobody else gets may enter a session.
    """
    if instance is None:
        watch.fail(NotFoundError(watch.rows.model, watch.key_by_name, deleted=True))
        return
    try:
        holds = watch.predicate is None or bool(watch.predicate(instance))
    except Exception as error:  # noqa: BLE001  # the caller's predicate: the caller's error
        watch.fail(error)
    else:
        watch.unasked = False
        if holds:
            watch.finish(instance if watch.wants_instance or alone else None)


def loads_at_once(watch: Watch) -> bool:
    """Whether a read of that watch can load its instance along with the values."""
    return not watch.options and watch.rows.instances_come_with_values


def grouped(watches: Iterable[Watch], by: Callable[[Watch], Hashable]) -> Iterator[list[Watch]]:
    """The watches that are alike, together."""
    groups: defaultdict[Hashable, list[Watch]] = defaultdict(list)
    for watch in watches:
        groups[by(watch)].append(watch)
    yield from groups.values()
