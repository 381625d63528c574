"""Finds the waits that a failed SELECT ends: all with the same query, or that of the bad row.

A column that a migration has dropped fails every read of its class. So the waits with the same
query are judged together first, by the same SELECT for no row. Only if that succeeds, one of the
rows is the cause, and the waits are halved until it is found. Meanwhile other waits of the class
have to wait. So this takes a quarter of a second at most. Waits that are not judged by then are
read again.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from rowbell._cancellation import own_cancellations
from rowbell._sqlstate import INSUFFICIENT_PRIVILEGE, UNDEFINED_FUNCTION, sqlstate_of
from rowbell._watch.board.observation import Reading
from rowbell._watch.failures import UnreachableError, is_answered, is_passing, own
from rowbell._watch.reading.batch import grouped, read
from rowbell._watch.reading.endings import finish, load_all
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.row_select import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from rowbell._watch.board.watch import Watch
    from rowbell._watch.connections import Connections
    from rowbell._watch.rows.mapped_rows import MappedRows

_LIMIT: Final = 0.25
"""How long judging may take, in seconds."""

_UNPROVABLE: Final = {
    UNDEFINED_FUNCTION: Reason.NO_HASH,
    INSUFFICIENT_PRIVILEGE: Reason.NOT_PERMITTED,
}
"""Why a row cannot be armed, by the SQLSTATE with which reading the evidence fails."""


class Asked(NamedTuple):
    """What a SELECT reads in addition to the values.

    Attributes:
        evidence: Whether it reads what the proof needs.
        instances: Whether it loads the instances.
    """

    evidence: bool
    instances: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for the waits that a failed SELECT has not ended.

    Attributes:
        problem: The error, for the waits that could not be read for; empty if there is none.
        unread: The waits that could not be read for. They are read again at their interval.
        left: The waits that were not judged for lack of time. They are read again at once.
        never_armed: Why none of them can be armed, if the SELECT failed because of that.
        queries: The number of SELECT statements that this took.
    """

    problem: str = ""
    unread: Sequence[Watch] = ()
    left: Sequence[Watch] = ()
    never_armed: Reason | None = None
    queries: int = 0


async def verdict_on(
    error: Exception,
    rows: MappedRows,
    watches: Sequence[Watch],
    asked: Asked,
    connections: Connections,
    *,
    repeated: bool,
) -> Verdict:
    """End the waits that caused a SELECT to fail.

    Args:
        error: The error of the SELECT.
        rows: The rows of the class.
        watches: The waits that it read for.
        asked: What it read.
        connections: The connections to find the cause with.
        repeated: Whether the previous SELECT has failed too.
    """
    problem = f"the last read failed: {error}"
    if isinstance(error, UnreachableError):
        for watch in watches:
            if not watch.observation.is_found and not error.passes:
                watch.fail(own(error.reason))  # the others were read before
        return Verdict(problem, watches)
    passes = is_passing(error)
    if passes and not (repeated and is_answered(error) and len(watches) > 1):
        return Verdict(problem, watches)
    blame, verdict = Blame(rows, asked), None
    try:
        if passes:
            # In random order, so that the time runs out for other waits each time.
            shuffled = random.sample(watches, len(watches))
            await connections.run_apart(blame.read_what_can_be_read, shuffled)
            unread = [*blame.unread, *blame.left]
            verdict = Verdict(problem if unread else "", unread)
        else:
            verdict = await _found_by(blame, watches, connections)
    except Exception as passing:  # noqa: BLE001  # the waits that caused it have ended
        verdict = Verdict(f"the last read failed: {passing}", watches)
    return replace(verdict or Verdict(problem, watches), queries=blame.queries)


async def _found_by(
    blame: Blame, watches: Sequence[Watch], connections: Connections
) -> Verdict | None:
    """The verdict on an error that does not pass; ``None`` if no cause was found."""
    try:
        await connections.run_apart(blame.find, watches)
    except UnreachableError:
        await connections.run_pooled(blame.find, watches)
    if blame.found or blame.left:
        return Verdict(left=blame.left)
    if blame.unmakeable is not None:
        blame.rows.instances_come_with_values = False
    if blame.unprovable is None:
        return None if blame.unmakeable is None else Verdict()
    never_armed = _UNPROVABLE.get(sqlstate_of(blame.unprovable))
    return None if never_armed is None else Verdict(never_armed=never_armed)


class Blame:
    """Finds the waits that cannot be read for, on a new connection.

    Args:
        rows: The rows of the class.
        asked: What the failed SELECT read.

    Attributes:
        rows: As given.
        queries: The number of SELECT statements that this took.
        found: Whether a wait was the cause.
        left: The waits that were not judged for lack of time.
        unread: The waits that could not be read for, for a reason that passes.
        unprovable: The error of reading the evidence, if nothing else fails.
        unmakeable: The error of loading instances with the values, if nothing else fails.
    """

    def __init__(self, rows: MappedRows, asked: Asked) -> None:
        self.rows = rows
        self._asked = asked
        self._until = math.inf
        self._ended: dict[Watch, Reading] = {}
        self._passes = False
        self.queries = 0
        self.found = False
        self.left: list[Watch] = []
        self.unread: list[Watch] = []
        self.unprovable: Exception | None = None
        self.unmakeable: Exception | None = None

    def find(self, connection: Connection, watches: Sequence[Watch]) -> None:
        """Read the rows one half at a time; fail the watches whose rows cannot be read.

        Raises:
            Exception: An error that passes: no wait is its cause.
        """
        for group in grouped(watches, lambda watch: watch.request.columns):
            if not self._is_shared(group, partial(self._read_none, connection)):
                self._halve(group, partial(self._read, connection))
        for group in grouped(self._ended, lambda watch: tuple(map(id, watch.request.options))):
            if not self._is_shared(group, partial(self._load_none, connection)):
                self._halve(group, partial(self._finish, connection))
        if not self.found and not self.left:
            if self._asked.evidence:
                self.unprovable = self._failure_of(connection, watches, evidence=True)
            if self._asked.instances:
                self.unmakeable = self._failure_of(connection, watches, instances=True)

    def read_what_can_be_read(self, connection: Connection, watches: Sequence[Watch]) -> None:
        """The same for an error that passes: no wait ends, but one need not block the others."""
        self._passes = True
        half = len(watches) // 2  # all of them together have failed already
        for some in (watches[:half], watches[half:]):
            self._halve(some, partial(self._read, connection))
        self._halve(list(self._ended), partial(self._finish, connection))

    def _is_shared(self, watches: Sequence[Watch], ask_for_none: Callable[[Watch], None]) -> bool:
        """Whether the SELECT fails even for no row. Then all of the watches fail."""
        self.queries += 1
        try:
            with own_cancellations():
                ask_for_none(watches[0])
        except Exception as error:  # noqa: BLE001  # the watches fail with it
            self._fail(watches, error)
            return True
        return False

    def _halve(self, watches: Sequence[Watch], serve: Callable[[Sequence[Watch]], None]) -> None:
        """Read all rows together, or halve them until the unreadable row is found."""
        now = asyncio.get_running_loop().time()
        if now > self._until:
            self.left += watches
            return
        try:
            with own_cancellations():
                serve(watches)
            self._until = min(
                self._until, now + _LIMIT
            )  # the time limit begins when the first is judged
        except Exception as error:
            if len(watches) <= 1:
                self._fail(watches, error)
                self._until = min(self._until, now + _LIMIT)
                return
            if is_passing(error) and not self._passes:
                raise
            half = len(watches) // 2
            self._halve(watches[:half], serve)
            self._halve(watches[half:], serve)

    def _fail(self, watches: Sequence[Watch], error: Exception) -> None:
        if self._passes:
            self.unread += watches
            return
        if is_passing(error):
            raise error
        self.found = True
        for watch in watches:
            watch.fail(own(error) if len(watches) > 1 else error)

    def _failure_of(
        self,
        connection: Connection,
        watches: Sequence[Watch],
        *,
        evidence: bool = False,
        instances: bool = False,
    ) -> Exception | None:
        """The error of such a read, if it is an error that does not pass."""
        self.queries += 1
        try:
            with own_cancellations():
                for _ in read(
                    connection, self.rows, watches, evidence=evidence, instances=instances
                ):
                    pass
        except Exception as error:
            if is_passing(error):
                raise
            return error
        return None

    def _read_none(self, connection: Connection, watch: Watch) -> None:
        self.rows.forms.learn(connection, watch.request.columns)
        condition = watch.request.condition
        layout = Layout(watch.request.columns, has_condition=condition is not None)
        statement, parameters = self.rows.select([], layout, condition=condition)
        connection.execute(statement, parameters, execution_options=self.rows.execution_options)

    def _read(self, connection: Connection, watches: Sequence[Watch]) -> None:
        self.queries += 1
        for watch, reading in read(connection, self.rows, watches, evidence=False):
            if not watch.is_over and watch.observe(reading) and isinstance(reading, Reading):
                self._ended[watch] = reading

    def _load_none(self, connection: Connection, watch: Watch) -> None:
        load_all(connection, self.rows, [], watch.request.options)

    def _finish(self, connection: Connection, watches: Sequence[Watch]) -> None:
        ended = [(watch, self._ended[watch]) for watch in watches if not watch.is_over]
        self.queries += finish(connection, self.rows, ended)
