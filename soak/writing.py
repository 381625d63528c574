"""The processes that write, in all ways in which rows can change."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

import plan
from log import Log
from statements import STATEMENTS
from tables import MODELS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import URL

Connection: TypeAlias = "asyncpg.Connection[Any]"

TROUBLE: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""The errors with which a statement may fail during faults."""

TRIES: Final = 20
"""How often the second transaction of a write is tried, so that no row stays away forever."""


@dataclass(frozen=True, slots=True)
class Office:
    """The actors that write in one process.

    Attributes:
        name: The process's name.
        seed: The run's seed.
        url: The database.
        actors: The number of actors.
        until: The time at which they stop.
        directory: The directory of the logs.
    """

    name: str
    seed: int
    url: URL
    actors: int
    until: float
    directory: Path


def run(office: Office) -> None:
    """The process's main function."""
    with Log(office.directory / f"{office.name}.jsonl") as log:
        asyncio.run(_write_all(office, log))


async def _write_all(office: Office, log: Log) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(office.actors):
            actor = Actor(office, f"{office.name}-{number}", log)
            tasks.start_soon(actor.run)


class Actor:
    """Makes one write after the other.

    Args:
        office: The actors of the process.
        name: Its name. Its operations depend on it.
        log: The log.
    """

    def __init__(self, office: Office, name: str, log: Log) -> None:
        self._office = office
        self._name = name
        self._log = log
        self._connection: Connection | None = None
        self._engine = create_async_engine(office.url, poolclass=NullPool)
        self._unknown: list[tuple[str, int]] = []

    async def run(self) -> None:
        """Write repeatedly until it is time to stop."""
        try:
            for k, operation in enumerate(plan.writes(self._office.seed, self._name)):
                if time.monotonic() >= self._office.until:
                    break
                await asyncio.sleep(operation.pause)
                await self._write(k, operation)
            await self._connected()
        finally:
            await self._engine.dispose()
            if self._connection is not None:
                self._connection.terminate()

    async def _write(self, k: int, operation: plan.Write) -> None:
        if operation.how == "unit of work":
            await self._unit_of_work(f"{self._name}:{k}", operation)
            return
        first, *second = STATEMENTS[operation.how]
        done = await self._transaction(f"{self._name}:{k}", operation, first)
        for number, work in enumerate(() if done is False else second):
            await asyncio.sleep(operation.between)
            for attempt in range(TRIES):
                token = f"{self._name}:{k}:{number}:{attempt}"
                if await self._transaction(token, operation, work):
                    break

    async def _transaction(
        self,
        token: str,
        operation: plan.Write,
        work: Callable[[Connection, plan.Write], Awaitable[None]],
    ) -> bool | None:
        """Execute one transaction. Return whether it is committed, ``None`` if that is unknown."""
        connection = await self._connected()
        xid, sent = 0, 0.0
        automatic = operation.how == "autocommit"
        try:
            if automatic:
                await connection.execute("SELECT set_config('soak.token', $1, false)", token)
                sent = time.monotonic()
                await work(connection, operation)
            else:
                await connection.execute(f"BEGIN ISOLATION LEVEL {operation.isolation}")
                await connection.execute("SELECT set_config('soak.token', $1, true)", token)
                await work(connection, operation)
                await asyncio.sleep(operation.linger)
                xid = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
                if operation.how == "rollback":
                    await connection.execute("ROLLBACK")
                    self._note(token, operation, "rolled back", xid)
                    return True
                end = "COMMIT"
                if operation.how == "prepared":
                    sent = time.monotonic()  # it may be prepared without an answer
                    await connection.execute(f"PREPARE TRANSACTION '{token}'")
                    end = f"COMMIT PREPARED '{token}'"
                sent = time.monotonic()
                await connection.execute(end)
        except TROUBLE as error:
            outcome = "unknown" if sent else "failed"
            self._note(
                token, operation, outcome, xid, sent=sent, error=f"{type(error).__name__}: {error}"
            )
            if sent:
                self._unknown.append((token, xid))
            await self._clean(connection)
            return None if sent else False
        self._note(token, operation, "committed", xid, sent=sent)
        return True

    async def _unit_of_work(self, token: str, operation: plan.Write) -> None:
        """The same with the ORM."""
        sent, xid = 0.0, 0
        try:
            engine = self._engine.execution_options(isolation_level=operation.isolation)
            async with AsyncSession(engine) as session:
                await session.execute(
                    text("SELECT set_config('soak.token', :token, true)"), {"token": token}
                )
                for key in operation.keys:
                    row = await session.get(MODELS[operation.table], key)
                    if row is not None:
                        row.state = "worked"
                        row.mark += operation.marks
                        row.spare += 1
                await session.flush()
                xid = await session.scalar(text("SELECT pg_current_xact_id()::text::bigint")) or 0
                sent = time.monotonic()
                await session.commit()
        except Exception as error:  # noqa: BLE001  # the journal shows the outcome
            outcome = "unknown" if sent else "failed"
            self._note(
                token, operation, outcome, xid, sent=sent, error=f"{type(error).__name__}: {error}"
            )
            if sent:
                self._unknown.append((token, xid))
        else:
            self._note(token, operation, "committed", xid, sent=sent)

    def _note(
        self,
        token: str,
        operation: plan.Write,
        outcome: str,
        xid: int,
        *,
        sent: float = 0.0,
        error: str = "",
    ) -> None:
        self._log.write(
            "commit",
            token=token,
            how=operation.how,
            isolation=operation.isolation,
            table=operation.table,
            outcome=outcome,
            xid=xid,
            linger=operation.linger,
            sent=sent,
            done=time.monotonic(),
            error=error[:300],
        )

    async def _clean(self, connection: Connection) -> None:
        """End the open transaction, or close the connection."""
        try:
            await connection.execute("ROLLBACK")
        except TROUBLE:
            connection.terminate()
            self._connection = None

    async def _connected(self) -> Connection:
        """Connect as soon as the server accepts it, and then resolve unknown transactions."""
        while True:
            with suppress(*TROUBLE):
                if self._connection is None or self._connection.is_closed():
                    url = self._office.url
                    self._connection = await asyncpg.connect(
                        user=url.username,
                        database=url.database,
                        host=str(url.query["host"]),
                        timeout=5,
                        server_settings={"application_name": f"writer {self._name}"},
                    )
                while self._unknown:
                    token, xid = self._unknown[-1]
                    await self._resolve(self._connection, token, xid)
                    self._unknown.pop()
                return self._connection
            self._connection = None
            await asyncio.sleep(0.1)

    async def _resolve(self, connection: Connection, token: str, xid: int) -> None:
        """Find out whether a transaction is committed after its COMMIT was not answered.

        The journal shows that. The transaction ID alone does not: after a crash, another
        transaction may have the same ID.
        """
        with suppress(asyncpg.InvalidParameterValueError):  # an ID that no longer exists
            while await connection.fetchval(
                "SELECT pg_xact_status($1::text::xid8) = 'in progress' AND NOT EXISTS"
                " (SELECT FROM pg_prepared_xacts WHERE gid = $2)",
                str(xid or 1),
                token,
            ):
                await asyncio.sleep(0.05)
        if await connection.fetchval("SELECT true FROM pg_prepared_xacts WHERE gid = $1", token):
            await connection.execute(f"COMMIT PREPARED '{token}'")
        committed = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM journal WHERE token = $1)", token
        )
        outcome = "committed" if committed else "rolled back"
        self._log.write("resolved", token=token, outcome=outcome, at=time.monotonic())
