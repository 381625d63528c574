"""One SELECT for many rows of a class, and its result for each of their watches.

The code is synchronous, on SQLAlchemy's own ``Connection``: a read enters SQLAlchemy's greenlet
once, not once for each call. Thousands of rows are processed a few hundred at a time. In between,
the event loop runs other tasks.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import nullcontext
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
from rowbell._watch.rows.whole_tables import WholeTables

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

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
    """Read for watches of one class and one condition with one SELECT, each row once.

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
    if isinstance(rows, WholeTables):
        return _read_tables(connection, rows, watches, evidence=evidence)
    return _read_rows(connection, rows, watches, evidence=evidence, instances=instances)


def _read_rows(
    connection: Connection,
    rows: MappedRows,
    watches: Sequence[Watch],
    *,
    evidence: bool,
    instances: bool,
) -> Iterator[tuple[Watch, Reading | Absence]]:
    maker = rows.maker if instances else None
    names = maker.names if maker else _columns(rows, watches)
    rows.forms.learn(connection, names)
    _ask_baselines(connection, watches)
    has_absent = evidence and _may_arm_absent(connection, rows, watches)
    by_orm = instances and maker is None and not (has_absent or may_be_filtered(Session()))
    condition = watches[0].request.condition
    places = by_row(watches)
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
    with load_session(connection) if by_orm else nullcontext(connection) as source:
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


def _read_tables(
    connection: Connection, rows: WholeTables, watches: Sequence[Watch], *, evidence: bool
) -> Iterator[tuple[Watch, Reading]]:
    """Read the evidence for watches of whole tables, which have no values."""
    found = None
    if evidence:
        statement, layout = rows.evidence()
        result = connection.execute(statement, execution_options=rows.execution_options)
        found = layout.parser()(result.one()).evidence
        if found is not None and not all(row_id.table_oid for row_id in found.row_ids):
            found = None  # a table does not exist yet: its oid is NULL
    for watch in watches:
        yield watch, Reading((), evidence=found)


def _may_arm_absent(connection: Connection, rows: MappedRows, watches: Sequence[Watch]) -> bool:
    """Whether a watch waits for a row that need not exist, and inserts notify."""
    if not rows.absent_keys.notify or not any(one.request.waits_for_missing for one in watches):
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


def by_row(watches: Sequence[Watch]) -> list[list[Watch]]:
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


def may_be_filtered(session: Session) -> bool:
    """Whether a ``do_orm_execute`` listener of all sessions may add criteria, as for soft deletes.

    A wait ignores such criteria: the row is the truth.
    """
    return bool(session.dispatch.do_orm_execute)


def load_session(connection: Connection) -> Session:
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
