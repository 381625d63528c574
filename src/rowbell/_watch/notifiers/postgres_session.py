"""One LISTEN connection, from its first query to its last, and its registrations.

::

    identify → LISTEN, and prove delivery → open_listener() → register, check, register, … → end

Checks are queries, because notifications would write WAL. A check finds a half-open connection, a
pooler that has changed the server process, a standby, and every gap: notifications that could not
be sent, deleted registrations, changed tables and triggers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpg import InsufficientPrivilegeError

from rowbell._watch.database.row_set import RowSet
from rowbell._watch.notifiers.contract import (
    CannotNotifyError,
    Gap,
    Obstacle,
    Registered,
    Report,
)
from rowbell._watch.notifiers.delivery import prove_delivery
from rowbell._watch.notifiers.payload import BROADCAST, Announcement, decode
from rowbell._watch.notifiers.refusals import refuse_other_session, refuse_unsuitable
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from rowbell._watch.database.answers import TableState
    from rowbell._watch.database.calls import Calls
    from rowbell._watch.database.tables import Columns
    from rowbell._watch.notifiers.contract import Receiver, Tables
    from rowbell._watch.timing import Timing
    from rowbell._watch.values.key_hash import RowId


class PostgresSession:
    """The session of one LISTEN connection.

    Args:
        calls: The calls on that connection.
        receiver: The receiver of the notifications.
        notify: Sends an empty notification to a channel, from another connection.
        timing: The watcher's times.

    Attributes:
        server: When the server was started, in seconds.
        evidence: What has shown that notifications arrive.
        notifications: The number of notifications that were understood.
        ignored: The number of payloads that were not understood.
        queue_usage: The usage of the server's queue at the last heartbeat.
    """

    def __init__(
        self,
        calls: Calls,
        receiver: Receiver,
        notify: Callable[[str], Awaitable[None]],
        timing: Timing,
    ) -> None:
        self._calls = calls
        self._receiver = receiver
        self._notify = notify
        self._timing = timing
        self._backend_pid = 0
        self._unsent: int | None = None
        self._registered = RowSet()
        self._versions: dict[int, object] = {}
        self._names: dict[int, str] = {}
        self.server = 0.0
        self.evidence = ""
        self.notifications = 0
        self.ignored = 0
        self.queue_usage: float | None = None

    # -- the beginning

    async def begin(self) -> None:
        """Listen, and prove that notifications arrive.

        Raises:
            CannotNotifyError: They do not arrive.
        """
        server = await self._calls.identify()
        refuse_unsuitable(server)
        self._backend_pid, self.server = server.backend_pid, server.started
        await prove_delivery(self._calls, self._notify, self._timing.proof)
        await self._calls.listen(BROADCAST, self._receive)
        await self._calls.prepare_session()
        try:
            channel = await self._calls.open_listener()
        except InsufficientPrivilegeError as error:
            raise CannotNotifyError(
                Reason.NOT_PERMITTED, f"rowbell.open_listener(): {error}"
            ) from error
        await self._calls.listen(channel, self._receive)
        await self.check({})
        self.evidence = (
            f"the server process {self._backend_pid} of the database {server.database!r} has "
            "received a notification that another connection sent"
        )

    def _receive(self, payload: str) -> None:
        """Process a payload. asyncpg calls this, in the order of arrival."""
        said = decode(payload)
        if said is None:
            self.ignored += 1
            return
        self.notifications += 1
        if isinstance(said, Announcement):
            self._receiver.on_gap()
        else:
            self._receiver.on_notification(said)

    # -- registrations

    @property
    def loss(self) -> CannotNotifyError | None:
        """Whether the connection is closed."""
        if not self._calls.closed:
            return None
        return CannotNotifyError(Reason.CONNECTION_LOST, "the server closed the connection")

    async def register(self, rows: Sequence[tuple[RowId, Columns]], tables: Tables) -> Registered:
        """Register rows, and then take a boundary."""
        answer = await self._calls.register(tables, rows)
        report = await self._report(answer.tables)
        if answer.over_limit:
            return Registered(report, None)
        registered = {oid for oid, table in answer.tables.items() if table.registers}
        self._registered.add(row_id for row_id, _ in rows if row_id.table_oid in registered)
        return Registered(report, await self._calls.boundary())

    async def unregister(self, row_ids: Sequence[RowId]) -> None:
        """Delete registrations."""
        await self._calls.unregister(row_ids)
        self._registered.discard(row_ids)

    async def tables_without_writers(self, tables: Sequence[int], boundary: int) -> Collection[int]:
        """The tables of these on which no transaction below the boundary holds a writer's lock."""
        return await self._calls.tables_without_writers(tables, boundary)

    async def end(self) -> None:
        """Delete all registrations."""
        await self._calls.close_listener()

    # -- checks

    async def check(self, tables: Tables) -> Report:
        """The heartbeat: is it the same session, on a primary, and was nothing missed?

        Raises:
            CannotNotifyError: It is not, or registrations were deleted.
        """
        answer = await self._calls.heartbeat(tables)
        self.queue_usage = answer.queue_usage
        refuse_other_session(answer, self._backend_pid, self._registered)
        report = await self._report(answer.tables)
        if self._unsent is not None and answer.unsent != self._unsent:
            missed = f"{answer.unsent - self._unsent} notifications were not sent"
            gap = Gap(await self._calls.boundary(), missed)
            report = Report(report.obstacles, (*report.gaps, gap))
        self._unsent = answer.unsent
        return report

    async def _report(self, tables: dict[int, TableState]) -> Report:
        """The obstacles and gaps that follow from the state of the tables."""
        obstacles: dict[int, Obstacle] = {}
        for oid, table in tables.items():
            if table.obstacle is not None:
                obstacles[oid] = Obstacle(Reason(table.obstacle), await self._name(oid))
        changed = tuple(
            oid
            for oid, table in tables.items()
            if oid in self._versions and self._versions[oid] != table.version
        )
        self._versions = {oid: table.version for oid, table in tables.items()}
        if not changed:
            return Report(obstacles)
        return Report(obstacles, (Gap(await self._calls.boundary(), tables=changed),))

    async def _name(self, oid: int) -> str:
        if oid not in self._names:
            self._names[oid] = f"table {await self._calls.table_name(oid)}"
        return self._names[oid]
