"""One SELECT for many rows of a class, and its result for each of their watches.

The code is synchronous, on SQLAlchemy's own ``Connection``: a read enters SQLAlchemy's greenlet
once, not once for each call. Thousands of rows are processed a few hundred at a time. In between,
the event loop runs other tasks.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from rowbell._sqlstate import SYNTAX_OR_ACCESS_RULE, sqlstate_of
from rowbell._watch.board.observation import Absence, Reading
from rowbell._watch.rows.row_select import Layout
from rowbell._watch.rows.since import Since

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._watch.board.watch import Watch
    from rowbell._watch.rows.mapped_rows import MappedRows

T = TypeVar("T")

SLICE: Final = 250
"""Rows processed before yielding to the event loop: a few milliseconds."""


def read(
    connection: Connection,
    rows: MappedRows,
    watches: Sequence[Watch],
    *,
    evidence: bool,
    instances: bool = False,
) -> Iterator[tuple[Watch, Reading | Absence]]:
    """Read the rows of watches of one class and one condition with one SELECT, each row once.

    Readings are yielded one by one and not kept: if thousands existed at a time, the garbage
    collector would search the whole process.

    Args:
        connection: The connection to read on.
        rows: The rows of the class.
        watches: The watches to read for.
        evidence: Whether to read the evidence too.
        instances: Whether to load the instances too.

    Yields:
        Each watch with its reading, or with the absence of its row.
    """
    maker = rows.maker if instances else None
    names = maker.names if maker else _columns(rows, watches)
    rows.forms.learn(connection, names)
    _ask_baselines(connection, watches)
    has_absent = evidence and _may_arm_absent(connection, rows, watches)
    by_orm = instances and maker is None and not (has_absent or _may_be_filtered(Session()))
    condition = watches[0].request.condition
    places = _places(watches)
    layout = Layout(
        names,
        raw=rows.forms.unread(names) if maker else (),
        has_instance=by_orm,
        has_condition=condition is not None,
        tables=len(rows.tables) if evidence else 0,
        has_absent=has_absent,
    )
    keys = [sharing[0].request.key for sharing in places]
    statement, parameters = rows.select(keys, layout, condition=condition)
    codes: tuple[Any, ...] = ()
    missing, parse = set(range(len(places))), layout.parser()
    with _session(connection) if by_orm else nullcontext(connection) as source:
        try:
            result = source.execute(statement, parameters, execution_options=rows.execution_options)
        except DBAPIError as error:
            if sqlstate_of(error).startswith(SYNTAX_OR_ACCESS_RULE):  # types may have changed
                rows.forget()
            raise
        if maker and isinstance(result, CursorResult) and result.cursor is not None:
            described = result.cursor.description
            codes = tuple([described[i][1] for i in layout.driver_columns])
        for row in in_turns(result.partitions(SLICE)):
            found = parse(row)
            sharing = places[found.place - 1]
            missing.discard(found.place - 1)
            if not found.exists:
                yield from ((watch, Absence(found.evidence)) for watch in sharing)
                continue
            is_shared = maker is None and len(sharing) > 1
            for watch in sharing:
                # Each watch gets its own instance if making one only sets attributes.
                instance = maker.make(found.raw, codes) if maker else found.instance
                values = found.values
                if watch.request.columns != names:
                    by_name = dict(zip(names, values, strict=True))
                    values = tuple(by_name[name] for name in watch.request.columns)
                yield watch, Reading(values, found.until, instance, found.evidence, is_shared)
    for place in missing:
        for watch in places[place]:
            yield watch, Absence()


def _may_arm_absent(connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> bool:
    """Whether a watch waits for a row that need not exist, and inserts notify."""
    if not rows.notifies_of_inserts or not any(one.request.waits_for_missing for one in watches):
        return False
    rows.absent_keys.learn(connection)
    return bool(rows.absent_keys.can_be_hashed)


def _ask_baselines(connection: Connection, watches: Sequence[Watch]) -> None:
    """Set the baselines of watches with ``since=``, before their first read."""
    asking: list[tuple[Watch, Since]] = []
    for watch in watches:
        since = watch.request.since
        if since is None or watch.observation.is_begun or watch.is_over:
            continue
        known = since.known
        if known is None:
            asking.append((watch, since))
        else:
            watch.observation.begin(known)
    baselines = Since.asked(connection, [since for _, since in asking])
    for (watch, _), baseline in zip(asking, baselines, strict=True):
        watch.observation.begin(baseline)


_SHARED: Final = frozenset({int, str, bytes, UUID, date, datetime, Decimal})
"""The types for which two keys that are equal in Python always mean the same row."""


def _places(watches: Sequence[Watch]) -> list[list[Watch]]:
    """The watches grouped by row: a row is fetched once for all of them."""
    by_row: defaultdict[Hashable, list[Watch]] = defaultdict(list)
    for watch in watches:
        key = watch.request.key
        by_row[key if all(map(_is_shared, key)) else id(watch)].append(watch)
    return list(by_row.values())


def _is_shared(part: object) -> bool:
    if isinstance(part, datetime) and part.tzinfo is not None:
        # When clocks are set back, two instants of that hour are equal in Python.
        return isinstance(part.tzinfo, timezone)
    return type(part) in _SHARED or isinstance(part, Enum)


def _columns(rows: MappedRows, watches: Sequence[Watch]) -> tuple[str, ...]:
    """The columns that at least one of the watches watches, in the class's order."""
    wanted = {watch.request.columns for watch in watches}
    if len(wanted) == 1:
        return watches[0].request.columns
    names = {name for columns in wanted for name in columns}
    return tuple(name for name in rows.columns.properties if name in names)


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
            left = [w for w, found in again if w.observe(found) and isinstance(found, Reading)]
            queries += 1 + _load_and_decide(connection, rows, left)
    return queries


def _load_and_decide(connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> int:
    """Load the instances of watches with the same options; return the number of statements."""
    if not watches:
        return 0
    places = _places(watches)
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
    with _session(connection) as session:
        result = session.execute(
            statement.options(*options), parameters, execution_options=rows.execution_options
        )
        found = dict(tuple(row) for row in in_turns(result.unique().partitions(SLICE)))
        missing = [place for place in range(1, len(places) + 1) if place not in found]
        if missing and _may_be_filtered(session):
            keys = [places[place - 1][0].request.key for place in missing]
            statement, parameters = rows.load(keys, unfiltered=True)
            result = session.execute(
                statement.options(*options), parameters, execution_options=rows.execution_options
            )
            found |= {missing[at - 1]: row for at, row in map(tuple, result.unique())}
        return found


def _may_be_filtered(session: Session) -> bool:
    """Whether a ``do_orm_execute`` listener of all sessions may add criteria, as for soft deletes.

    A wait ignores such criteria: the row is the truth.
    """
    return bool(session.dispatch.do_orm_execute)


def _session(connection: Connection) -> Session:
    """A session for loading. It does not end the connection's transaction."""
    return Session(connection, join_transaction_mode="rollback_only")


def loads_at_once(watch: Watch) -> bool:
    """Whether a read for this watch can load its instance together with the values."""
    request = watch.request
    return not request.options and request.rows.instances_come_with_values


def sliced(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Slices of the size that is processed before yielding to the event loop."""
    return (items[start : start + SLICE] for start in range(0, len(items), SLICE))


def in_turns(slices: Iterable[Sequence[T]]) -> Iterator[T]:
    """All items. Between two slices, it yields to the event loop."""
    for number, some in enumerate(slices):
        if number:
            await_only(asyncio.sleep(0))
        yield from some


def grouped(items: Iterable[T], by: Callable[[T], Hashable]) -> Iterator[list[T]]:
    """Groups of items with the same key."""
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[by(item)].append(item)
    yield from groups.values()
