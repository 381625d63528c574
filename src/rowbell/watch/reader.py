"""Reads the rows that want reading, many in one SELECT, and tells each watch what it saw.

It does not know why a row wants reading: rung, due, to be proven or for the last time. A class
has one read under way at a time; what becomes due meanwhile goes into the next.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import anyio
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from rowbell.errors import NotFoundError
from rowbell.watch.watch import Arming, Reading, Turn, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from rowbell.watch.board import Board
    from rowbell.watch.connection import Connections
    from rowbell.watch.rows import MappedRows

BATCH: Final = 2_000
"""The most rows of one SELECT: enough to be few, not so many as to hold the event loop up."""

_SERVER_GOES: Final = ("57P", "08", "53300")  # shut down, starting up, connection lost or refused


class Reader:
    """The task that reads for a board.

    Args:
        board: Whose watches are read for.
        connections: Where reads get their connections.
    """

    def __init__(self, board: Board, connections: Connections) -> None:
        self._board = board
        self._connections = connections
        self._waiting: dict[MappedRows, list[Watch]] = {}
        self._stopping = False
        self.rereads = 0
        self.queries = 0

    def stop(self) -> None:
        """End ``run`` when the reads under way have ended."""
        self._stopping = True
        self._board.to_read.set()

    async def run(self) -> None:
        """Read what is due, until stopped."""
        loop, to_read = asyncio.get_running_loop(), self._board.to_read
        async with anyio.create_task_group() as reads:
            while not self._stopping:
                to_read.clear()
                for watch in self._board.take_due():
                    waiting = self._waiting.get(watch.rows)
                    if waiting is None:
                        self._waiting[watch.rows] = [watch]
                        reads.start_soon(self._serve, watch.rows)
                    else:
                        waiting.append(watch)
                due = self._board.next_due()
                timer = loop.call_at(due, to_read.set) if due < math.inf else None
                try:
                    await to_read.wait()
                finally:
                    if timer is not None:
                        timer.cancel()

    async def _serve(self, rows: MappedRows) -> None:
        """Read rows of one class until no watch of it is due any more."""
        try:
            while self._waiting[rows]:
                watches, self._waiting[rows] = self._waiting[rows], []
                for group in _groups(watches, _together):
                    for start in range(0, len(group), BATCH):
                        await self._answer(rows, group[start : start + BATCH])
        finally:
            del self._waiting[rows]

    async def _answer(self, rows: MappedRows, watches: Sequence[Watch]) -> None:
        begun = asyncio.get_running_loop().time()
        trouble = ""
        try:
            async with self._connections.reading() as connection:
                await self._read(connection, rows, watches)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the waits' answer
            if not is_passing(error):
                if len(watches) > 1:  # one of them may be to blame: ask for each alone
                    for watch in watches:
                        await self._answer(rows, [watch])
                    return
                watches[0].fail(error)
            trouble = f"the last read failed: {error}"
            for watch in watches:
                if not watch.found:
                    watch.fail(error)
        self._board.answered(watches, begun, trouble)

    async def _read(
        self, connection: AsyncConnection, rows: MappedRows, watches: Sequence[Watch]
    ) -> None:
        board = self._board
        # The bell rang for an armed watch: no proof is wanted, and the row has probably changed.
        rung = all(watch.turn is Turn.READING_RUNG for watch in watches)
        evidence = board.hearing and watches[0].hindrance is None and not rung
        instances = rung and all(map(_loads_at_once, watches))
        boundaries = [w.boundary if w.arming is Arming.ARMING else None for w in watches]
        self.rereads += sum(watch.found for watch in watches)
        self.queries += 1
        readings = await read(connection, rows, watches, evidence=evidence, instances=instances)
        ended: list[tuple[Watch, Reading]] = []
        for watch, reading, boundary in zip(watches, readings, boundaries, strict=True):
            if watch.over:
                continue
            if watch.observe(reading) and reading is not None:
                ended.append((watch, reading))
            elif reading is not None and reading.evidence is not None:
                board.consider(watch, reading.evidence, boundary)
        self.queries += await finish(connection, rows, ended)


async def read(
    connection: AsyncConnection,
    rows: MappedRows,
    watches: Sequence[Watch],
    *,
    evidence: bool,
    instances: bool = False,
) -> list[Reading | None]:
    """Read the rows of watches of one class and one condition with one SELECT.

    Returns:
        A reading for each watch, ``None`` where there is no row.
    """
    wanted = {name for watch in watches for name in watch.columns}
    names = tuple(name for name in rows.columns.properties if name in wanted)
    statement, parameters = rows.read(
        [watch.key for watch in watches],
        names,
        until=watches[0].condition,
        evidence=evidence,
        instances=instances,
    )
    options = {"schema_translate_map": rows.schema_map or None}
    found: list[Any]
    if instances:
        async with _session(connection) as session:
            result = await session.execute(statement, parameters, execution_options=options)
            found = list(result)
            session.expunge_all()
    else:
        found = list(await connection.execute(statement, parameters, execution_options=options))
    readings: list[Reading | None] = [None] * len(watches)
    first = 1 + instances
    has_until = watches[0].condition is not None
    for row in found:
        values: dict[str, Any] = dict(zip(names, row[first:], strict=False))
        watch = watches[row[0] - 1]
        readings[row[0] - 1] = Reading(
            tuple(values[name] for name in watch.columns),
            until=has_until and bool(row[first + len(names)]),
            instance=row[1] if instances else None,
            evidence=rows.evidence_of(row) if evidence else None,
        )
    return readings


async def finish(
    connection: AsyncConnection, rows: MappedRows, ended: Sequence[tuple[Watch, Reading]]
) -> int:
    """End watches whose row has changed, with an instance where one is wanted.

    A predicate is asked here; where it says no, the watch goes on.

    Returns:
        The number of statements that it took.
    """
    shared = Counter(id(reading.instance) for _, reading in ended)
    wanting: list[Watch] = []
    for watch, reading in ended:
        if reading.instance is not None:
            _decide(watch, reading.instance, alone=shared[id(reading.instance)] == 1)
        elif watch.wants_instance or watch.predicate is not None:
            wanting.append(watch)
        else:
            watch.finish(None)
    queries = 0
    for group in _groups(wanting, lambda watch: tuple(map(id, watch.options))):
        async with _session(connection) as session:
            statement, parameters = rows.load([watch.key for watch in group])
            options: dict[str, Any] = {"schema_translate_map": rows.schema_map or None}
            result = await session.execute(
                statement.options(*group[0].options), parameters, execution_options=options
            )
            instances = dict(tuple(row) for row in result.unique())
            session.expunge_all()
        queries += 1
        for place, watch in enumerate(group, 1):
            _decide(watch, instances.get(place), alone=False)
    return queries


def _session(connection: AsyncConnection) -> AsyncSession:
    """A session to load with, which leaves the connection as it was."""
    return AsyncSession(connection, join_transaction_mode="rollback_only")


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


def is_passing(error: BaseException) -> bool:
    """Whether an error says that the server could not be reached, so that a later read may."""
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", None) or "")
        # asyncpg reports a value that it cannot bind as an interface error too.
        unbindable = isinstance(getattr(error.orig, "__cause__", None), ValueError | TypeError)
        unreachable = isinstance(error, InterfaceError | OperationalError) and not unbindable
        return (
            error.connection_invalidated
            or state.startswith(_SERVER_GOES)
            or (unreachable and not state)
        )
    return isinstance(error, OSError | TimeoutError | PoolTimeoutError)


def _loads_at_once(watch: Watch) -> bool:
    """Whether a read of that watch can load its instance along with the values."""
    return not watch.options and watch.rows.instances_come_with_values


def _together(watch: Watch) -> Hashable:
    """What watches must share to be read by one SELECT."""
    rung = watch.turn is Turn.READING_RUNG
    return watch.hindrance, watch.condition_key, rung, rung and _loads_at_once(watch)


def _groups(watches: Iterable[Watch], by: Callable[[Watch], Hashable]) -> Iterator[list[Watch]]:
    groups: defaultdict[Hashable, list[Watch]] = defaultdict(list)
    for watch in watches:
        groups[by(watch)].append(watch)
    yield from groups.values()
