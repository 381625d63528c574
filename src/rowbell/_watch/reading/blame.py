"""Which waits a failed read is to be blamed on: all that ask alike, or the one that is odd.

A column that a migration has dropped fails every read of its class. So those that ask alike are
judged together first, by the same SELECT for no row at all; only where that succeeds is it one of
the rows, which is found by halves. Others of the class wait meanwhile, so that takes a quarter of a
second at most; who is not judged by then is read for again.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Final

from rowbell._cancellation import own_cancellations
from rowbell._watch.failures import is_passing, own
from rowbell._watch.reading.batch import finish, grouped, load_all, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from rowbell._watch.board.watch import Reading, Watch
    from rowbell._watch.rows.mapped_rows import MappedRows

_LIMIT: Final = 0.25


class Blame:
    """Finds out on one connection, a new one, which remembers nothing of earlier schemas.

    Args:
        rows: The rows of the class.
        evidence: Whether the read that has failed asked for evidence.
        instances: Whether it was to load instances along with the values.

    Attributes:
        queries: The SELECT statements that it took.
        found: Whether any wait was to blame.
        left: The waits that were not judged for lack of time.
        unread: Those that could not be read for, for a reason that passes.
        unprovable: What reading the evidence fails with, where nothing else does.
        unmakeable: What loading instances along with the values fails with, likewise.
    """

    def __init__(self, rows: MappedRows, *, evidence: bool, instances: bool) -> None:
        self._rows = rows
        self._evidence = evidence
        self._instances = instances
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
        """Read for watches that could not be read for together; fail those that cannot be read for.

        Raises:
            Exception: One that passes: nobody is to blame for it.
        """
        for group in grouped(watches, lambda watch: watch.columns):
            if not self._is_shared(group, partial(self._read_none, connection)):
                self._halve(group, partial(self._read, connection))
        for group in grouped(self._ended, lambda watch: tuple(map(id, watch.options))):
            if not self._is_shared(group, partial(self._load_none, connection)):
                self._halve(group, partial(self._finish, connection))
        if not self.found and not self.left:
            if self._evidence:
                self.unprovable = self._failure_of(connection, watches, evidence=True)
            if self._instances:
                self.unmakeable = self._failure_of(connection, watches, instances=True)

    def read_what_can_be_read(self, connection: Connection, watches: Sequence[Watch]) -> None:
        """The same where the error passes: nobody is failed, but others need not wait for it."""
        self._passes = True
        half = len(watches) // 2  # all together have just failed
        for some in (watches[:half], watches[half:]):
            self._halve(some, partial(self._read, connection))
        self._halve(list(self._ended), partial(self._finish, connection))

    def _is_shared(self, watches: Sequence[Watch], ask_for_none: Callable[[Watch], None]) -> bool:
        """Whether what they ask cannot be asked for any row; then all of them fail."""
        self.queries += 1
        try:
            with own_cancellations():
                ask_for_none(watches[0])
        except Exception as error:  # noqa: BLE001  # it is what they are failed with
            self._fail(watches, error)
            return True
        return False

    def _halve(self, watches: Sequence[Watch], serve: Callable[[Sequence[Watch]], None]) -> None:
        """Serve them together, or by halves down to the one that cannot be served."""
        now = asyncio.get_running_loop().time()
        if now > self._until:
            self.left += watches
            return
        try:
            with own_cancellations():
                serve(watches)
            self._until = min(self._until, now + _LIMIT)  # from the first that is judged on
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
        """What reading for them so fails with, for good."""
        self.queries += 1
        try:
            with own_cancellations():
                for _ in read(
                    connection, self._rows, watches, evidence=evidence, instances=instances
                ):
                    pass
        except Exception as error:
            if is_passing(error):
                raise
            return error
        return None

    def _read_none(self, connection: Connection, watch: Watch) -> None:
        self._rows.forms.learn(connection, watch.columns)
        statement, parameters = self._rows.read(
            [], watch.columns, until=watch.condition, evidence=False
        )
        connection.execute(statement, parameters, execution_options=self._rows.execution_options)

    def _read(self, connection: Connection, watches: Sequence[Watch]) -> None:
        self.queries += 1
        for watch, reading in read(connection, self._rows, watches, evidence=False):
            if not watch.over and watch.observe(reading) and reading is not None:
                self._ended[watch] = reading

    def _load_none(self, connection: Connection, watch: Watch) -> None:
        load_all(connection, self._rows, [], watch.options)

    def _finish(self, connection: Connection, watches: Sequence[Watch]) -> None:
        ended = [(watch, self._ended[watch]) for watch in watches if not watch.over]
        self.queries += finish(connection, self._rows, ended)
