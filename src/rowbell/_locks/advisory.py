"""Advisory locks: locks on keys that have a meaning only in the application.

A session-level lock belongs to a server connection, not to a transaction. A session returns its
connection to the pool whenever its transaction ends. Unlocking after that would use another
connection, and the lock would stay with an idle connection of the pool. Therefore:

- a commit inside the block is refused if it would return the connection;
- if anything else ends the transaction (a rollback, a close), the pool's ``reset`` event releases
  the lock when the connection returns to the pool;
- after a failed statement the server refuses to unlock until a rollback: the lock is released then;
- if the lock was lost in one of these ways, a block that ends without an error raises one.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from rowbell._cancellation import cancelled_once, complete
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._locks.waiting import lock_wait
from rowbell._mapping import sync_connection
from rowbell._sessions.transaction import refuse_unbegun, savepoint
from rowbell.errors import InvalidArgumentError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolResetState

AdvisoryKey: TypeAlias = int | tuple[int, int] | str

_HELD: Final = "rowbell.advisory_locks"
"""The key in a connection's ``info`` that counts the session-level locks held for blocks."""


def advisory_lock(
    session: AsyncSession,
    key: AdvisoryKey,
    *,
    shared: bool = False,
    nowait: bool = False,
    timeout: LockTimeoutValue | None = None,
    transaction: bool = False,
) -> AbstractAsyncContextManager[bool]:
    """Hold an advisory lock (PostgreSQL manual, 13.3.5 "Advisory Locks").

    By default the lock is held until the block ends. If the lock protects what the session's
    transaction writes, that is too early: others see those writes only after the commit. Use
    ``transaction=True`` to hold the lock until then.

    A lock that is held until the block ends belongs to the session's connection. The session
    returns this connection to the pool when it commits. To commit inside the block, bind the
    session to a connection; see the example. In both cases the session is in a transaction once
    it has the lock, so ``get_transaction`` inside the block is a SAVEPOINT. In a REPEATABLE READ
    session the snapshot of this transaction is older than the lock.

    Args:
        session: The session. The lock is taken on its connection. Pending changes are not
            flushed.
        key: A 64-bit integer, two 32-bit integers, or a text, which stands for
            ``hashtextextended(key, 0)``. These are three key spaces; the first and the last
            overlap. Each database has its own keys.
        shared: Conflict with exclusive locks only.
        nowait: Do not wait; yield ``False`` if the lock is not available.
        timeout: The longest wait: seconds, a ``timedelta``, or a text in PostgreSQL's form.
            ``None`` keeps the session's own ``lock_timeout``.
        transaction: Hold the lock until the session's transaction ends, not until the block ends.

    Yields:
        Whether the lock is held. It is ``False`` only with ``nowait``.

    Raises:
        InvalidArgumentError: The key is out of range, or the timeout is invalid or given
            together with ``nowait``; at the call.
        LockTimeoutError: The lock was not acquired in time. The transaction stays usable.
        SessionStateError: A commit inside the block would release the lock, the lock was lost
            (raised at the end of the block), or the session is in AUTOCOMMIT.

    Example:
        .. code-block:: python

            async with rowbell.advisory_lock(session, f"import {name}", transaction=True):
                session.add(Order(status="imported"))

            async with engine.connect() as connection, AsyncSession(connection) as session:
                async with rowbell.advisory_lock(session, "nightly", nowait=True) as acquired:
                    if acquired:
                        await work_and_commit(session)
    """
    lock = _Lock(*_sql_key(key), repr(key), shared, nowait, transaction)
    if nowait and timeout is not None:
        raise InvalidArgumentError("timeout", timeout, "None with nowait=True")
    return _held(session, lock, None if timeout is None else LockTimeout.of(timeout))


@dataclass(frozen=True, slots=True)
class _Lock:
    arguments: str
    parameters: dict[str, int | str]
    key: str
    shared: bool
    nowait: bool
    transaction: bool

    @property
    def mode(self) -> str:
        return "shared advisory" if self.shared else "advisory"

    def acquire(self) -> str:
        attempt = "try_" if self.nowait else ""
        scope = "_xact" if self.transaction else ""
        return f"SELECT pg_{attempt}advisory{scope}_lock{self._suffix}({self.arguments})"

    def release(self) -> str:
        return f"SELECT pg_advisory_unlock{self._suffix}({self.arguments})"

    @property
    def _suffix(self) -> str:
        return "_shared" if self.shared else ""


@asynccontextmanager
async def _held(
    session: AsyncSession, lock: _Lock, timeout: LockTimeout | None
) -> AsyncGenerator[bool, None]:
    refuse_unbegun(session)
    held = sync_connection(await session.connection())
    driver = held.connection.dbapi_connection
    if not lock.transaction:
        _count(held, +1)  # before the lock is held, so that the pool unlocks whatever happens
    granted = False

    async def acquire(connection: AsyncConnection) -> None:
        nonlocal granted
        result = await connection.scalar(text(lock.acquire()), lock.parameters)
        granted = not lock.nowait or bool(result)

    try:
        async with (
            savepoint(session, session.get_bind()) as connection,
            lock_wait(connection, timeout, [f"the key {lock.key}"], lock.mode),
        ):
            await cancelled_once(acquire(connection))
    except BaseException:
        if granted and not lock.transaction:  # granted at the moment of the cancellation
            await complete(session.run_sync(_release, held, lock))
        raise
    if lock.transaction:
        yield granted
    elif not granted:
        _count(held, -1)
        yield False
    else:
        try:
            with _kept(session, lock):
                yield True
            if held.closed or held.invalidated or held.connection.dbapi_connection is not driver:
                raise SessionStateError(
                    f"the lock on the key {lock.key} was lost inside its block, because the "
                    "session's transaction ended there: bind the session to a connection to "
                    "keep it (AsyncSession(connection))"
                )
        finally:
            await complete(session.run_sync(_release, held, lock))


# Not event.contains(): it compares targets by id(), and a later object may have the same id().
_listening: Final[WeakSet[Pool]] = WeakSet()


def _release(session: Session, held: Connection, lock: _Lock) -> None:
    """Release the lock. In a failed transaction, release it after the rollback.

    The pool's event would be too late: perhaps only a SAVEPOINT is rolled back, and the connection
    of a session that is bound to it does not return to the pool.
    """

    def unlock(_: Session) -> None:
        if held.closed or held.invalidated:
            return
        began = not held.in_transaction()
        held.execute(text(lock.release()), lock.parameters)
        if began:
            held.rollback()
        _count(held, -1)

    try:
        unlock(session)
    except DBAPIError:
        event.listen(session, "after_rollback", unlock, once=True)


def _count(held: Connection, step: int) -> None:
    """Count the locks of a connection, so that its pool knows whether to release any."""
    pool = held.engine.pool
    if pool not in _listening:
        _listening.add(pool)
        event.listen(pool, "reset", _unlock_all)
    held.info[_HELD] = held.info.get(_HELD, 0) + step


def _unlock_all(
    dbapi_connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
) -> None:
    if entry.info.pop(_HELD, 0) and not state.terminate_only:
        dbapi_connection.rollback()  # in a failed transaction the server refuses to unlock
        cursor = dbapi_connection.cursor()
        cursor.execute("SELECT pg_advisory_unlock_all()")
        cursor.close()
        dbapi_connection.rollback()


@contextmanager
def _kept(session: AsyncSession, lock: _Lock) -> Generator[None]:
    """Refuse commits that would return the connection, and with it the lock, to the pool."""
    if not isinstance(session.get_bind(), Engine):
        yield
        return

    def refuse(committing: Session) -> None:
        if not committing.in_nested_transaction():
            raise SessionStateError(
                f"a commit here would end the lock on the key {lock.key} inside its block: "
                "commit after the block, or bind the session to a connection to keep the lock "
                "(AsyncSession(connection))"
            )

    event.listen(session.sync_session, "before_commit", refuse)
    try:
        yield
    finally:
        event.remove(session.sync_session, "before_commit", refuse)


_INTEGERS: Final = {1: ("bigint", 2**63), 2: ("integer", 2**31)}


def _sql_key(key: object) -> tuple[str, dict[str, int | str]]:
    """The key as SQL arguments of PostgreSQL's lock functions, and the parameters for them."""
    if isinstance(key, str) and "\0" not in key:
        return "hashtextextended(:key, 0)", {"key": key}
    parts = key if isinstance(key, tuple) and len(key) > 1 else (key,)
    type_, limit = _INTEGERS.get(len(parts), ("", 0))
    integers = [
        part
        for part in parts
        if isinstance(part, int) and not isinstance(part, bool) and -limit <= part < limit
    ]
    if len(integers) < len(parts):
        expected = "a 64-bit integer, two 32-bit integers, or a text without NUL"
        raise InvalidArgumentError("key", key, expected)
    names = [f"key_{number}" for number, _ in enumerate(parts)]
    arguments = ", ".join(f"CAST(:{name} AS {type_})" for name in names)
    return arguments, dict(zip(names, integers, strict=True))
