"""How watches end whose row has changed: with an instance, of the snapshot that matters."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rowbell._watch.board.observation import Reading
from rowbell._watch.reading.batch import (
    SLICE,
    by_row,
    grouped,
    in_turns,
    load_session,
    may_be_filtered,
    read,
    sliced,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._watch.board.watch import Watch
    from rowbell._watch.rows.mapped_rows import MappedRows


def finish(
    connection: Connection,
    rows: MappedRows,
    ended: Sequence[tuple[Watch, Reading]],
    *,
    in_one_snapshot: bool = False,
) -> int:
    """End the watches whose row has changed, with an instance if one is wanted.

    Predicates are called here. If a predicate is false, its watch continues.

    Args:
        connection: The connection of the read.
        rows: The rows of the class.
        ended: The watches, with their readings.
        in_one_snapshot: Whether further SELECTs see what the read has seen.

    Returns:
        The number of statements that this took.
    """
    wanting: list[Watch] = []
    for watch, reading in in_turns(sliced(ended)):
        if reading.instance is not None:
            watch.decide(reading.instance, alone=not reading.is_shared)
        elif watch.wants_instance or watch.request.predicate is not None:
            wanting.append(watch)
        else:
            watch.finish(None)
    queries = 0
    for group in grouped(wanting, lambda watch: tuple(map(id, watch.request.options))):
        if in_one_snapshot or not any(watch.needs_one_snapshot for watch in group):
            queries += _load_and_decide(connection, rows, group)
            continue
        with one_snapshot(connection, rows):
            again = read(connection, rows, group, evidence=False)
            # A row that is absent here may be in a table that took the name: it is read again.
            left = [w for w, found in again if isinstance(found, Reading) and w.observe(found)]
            queries += 1 + _load_and_decide(connection, rows, left)
    return queries


def _load_and_decide(connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> int:
    """Load the instances of watches with the same options; return the number of statements."""
    if not watches:
        return 0
    places = by_row(watches)
    instances = load_all(connection, rows, places, watches[0].request.options)
    sharing = [(place, watch) for place, some in enumerate(places, 1) for watch in some]
    for place, watch in in_turns(sliced(sharing)):
        watch.decide(instances.get(place), alone=False)
    return 1


@contextmanager
def one_snapshot(connection: Connection, rows: MappedRows) -> Generator[None]:
    """Let all SELECTs of the block see one snapshot, on a connection in AUTOCOMMIT."""
    if not rows.on_postgresql:
        yield
        return
    connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        try:
            connection.exec_driver_sql("ROLLBACK")
        except Exception:  # noqa: BLE001  # the first error is what matters
            connection.invalidate()
        raise


def load_all(
    connection: Connection,
    rows: MappedRows,
    places: Sequence[Sequence[Watch]],
    options: Sequence[ORMOption],
) -> dict[int, Any]:
    """Load the instances of rows, by their position in ``places`` (from 1)."""
    statement, parameters = rows.load([sharing[0].request.key for sharing in places])
    with load_session(connection) as session:
        result = session.execute(
            statement.options(*options), parameters, execution_options=rows.execution_options
        )
        found = dict(tuple(row) for row in in_turns(result.unique().partitions(SLICE)))
        missing = [place for place in range(1, len(places) + 1) if place not in found]
        if missing and may_be_filtered(session):
            keys = [places[place - 1][0].request.key for place in missing]
            statement, parameters = rows.load(keys, unfiltered=True)
            result = session.execute(
                statement.options(*options), parameters, execution_options=rows.execution_options
            )
            found |= {missing[at - 1]: row for at, row in map(tuple, result.unique())}
        return found
