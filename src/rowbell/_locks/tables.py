"""Table locks."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, Table

from rowbell._cancellation import cancelled_once
from rowbell._identifiers import verbatim
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._locks.waiting import lock_wait
from rowbell._mapping import (
    ModelOrTable,
    mapper_of,
    schema_map_of,
    sync_connection,
    table_name,
    tables_of,
)
from rowbell._sessions.transaction import SessionT, get_transaction
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession


class LockMode(StrEnum):
    """PostgreSQL's table lock modes, weakest first (manual, 13.3.1 "Table-Level Locks")."""

    ACCESS_SHARE = "ACCESS SHARE"
    """What SELECT takes; conflicts with ``ACCESS_EXCLUSIVE`` only."""
    ROW_SHARE = "ROW SHARE"
    """What SELECT FOR UPDATE takes."""
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    """What writes take."""
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    """Conflicts with itself; allows all reads and writes. The default."""
    SHARE = "SHARE"
    """Blocks writers; others may take it as well."""
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    """Blocks writers, and conflicts with itself."""
    EXCLUSIVE = "EXCLUSIVE"
    """Allows only reads without locks."""
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
    """Blocks all access."""


def lock_tables(
    session: SessionT,
    tables: Sequence[ModelOrTable],
    *,
    mode: LockMode = LockMode.SHARE_UPDATE_EXCLUSIVE,
    timeout: LockTimeoutValue | None = "5s",
) -> AbstractAsyncContextManager[SessionT]:
    """Lock tables until the transaction ends.

    The block is a transaction, or a SAVEPOINT if a transaction is open, as with
    ``get_transaction``. In a SAVEPOINT the locks outlive the block: they are held until the
    outer transaction ends. One statement locks all tables, always in the same order, so two
    callers cannot deadlock on them.

    Args:
        session: The session.
        tables: Mapped classes (all of their tables, with joined inheritance) or tables.
        mode: The lock mode. The default conflicts with itself, and lets others read and write.
        timeout: The longest wait: seconds, a ``timedelta``, or a text in PostgreSQL's form
            (``"500ms"``). ``None`` keeps the session's own ``lock_timeout``. It limits only the
            wait for these locks, not the waits of statements in the block.

    Yields:
        The session.

    Raises:
        InvalidArgumentError: No tables, tables of several databases, an unknown mode, or an
            invalid timeout; at the call.
        UnmappedModelError: A model is neither a mapped class nor a table; at the call.
        LockTimeoutError: The locks were not acquired in time. The transaction or SAVEPOINT of
            the block is rolled back.
        SessionStateError: The session is in AUTOCOMMIT.

    Example:
        .. code-block:: python

            async with rowbell.lock_tables(session, [Account, Transfer], timeout=2):
                session.add(Transfer(source_id=3))
    """
    models = _listed(tables)
    wanted = tables_of(models)
    if not wanted:
        raise InvalidArgumentError("tables", tables, "one mapped class or table at least")
    try:
        mode = LockMode(mode)
    except ValueError:
        raise InvalidArgumentError("mode", mode, f"one of {', '.join(LockMode)}") from None
    limit = None if timeout is None else LockTimeout.of(timeout)
    binds = {_bind(session, model) for model in models}
    if len(binds) > 1:
        raise InvalidArgumentError("tables", tables, "tables of one database")
    return _locked(session, binds.pop(), wanted, mode, limit)


@asynccontextmanager
async def _locked(
    session: SessionT,
    bind: Engine | Connection,
    tables: list[Table],
    mode: LockMode,
    timeout: LockTimeout | None,
) -> AsyncGenerator[SessionT, None]:
    async with get_transaction(session):
        connection = await session.connection(bind_arguments={"bind": bind})
        schema_map = schema_map_of(session.sync_session, sync_connection(connection))
        # Not by oid: the query for oids takes a snapshot, which in REPEATABLE READ would be older
        # than the locks. A table without a schema is sorted under the default schema.
        default = bind.dialect.default_schema_name or ""
        tables.sort(key=lambda t: (schema_map.get(t.schema, t.schema) or default, t.name))
        names = [table_name(table, schema_map) for table in tables]
        async with lock_wait(connection, timeout, names, mode):
            lock = f"LOCK TABLE {', '.join(names)} IN {mode} MODE"
            await cancelled_once(connection.execute(verbatim(lock)))
        yield session


def _bind(session: AsyncSession, model: ModelOrTable) -> Engine | Connection:
    if isinstance(model, Table):
        return session.sync_session.get_bind(clause=model)
    return session.sync_session.get_bind(mapper_of(model))


def _listed(tables: Sequence[ModelOrTable]) -> list[ModelOrTable]:
    try:
        return list(tables)
    except TypeError:
        raise InvalidArgumentError("tables", tables, "a list of mapped classes") from None
