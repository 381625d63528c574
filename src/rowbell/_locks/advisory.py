"""Advisory locks: on keys that only the application gives a meaning.

A session-level lock belongs to a server connection, not to a transaction. A session returns its
connection to the pool whenever its transaction ends. Unlocking after that would use another
connection, and the lock would stay with an idle connection of the pool. Therefore:

- a commit inside the block is refused if it would return the connection;
- if anything else ends the transaction (a rollback, a close), the lock is released when the
  connection returns to the pool, by the pool's ``reset`` event;
- after a failed statement the server refuses to unlock until a rollback: then it is done;
- a block that ends without an error although its lock was lost in that way raises.
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
"""Where a connection's ``info`` counts the session-level locks that it holds for blocks."""


def advisory_lock(
    session: AsyncSession,
    key: AdvisoryKey,
    *,
    shared: bool = False,
    nowait: bool = False,
    timeout: LockTimeoutValue | None = None,
    transaction: bool = False,
) -> AbstractAsyncContextManager[bool]:
    """Hold one of the application's own locks (PostgreSQL manual, 13.3.5 "Advisory Locks").

    By default the lock is held until the block ends. Where it protects what the session's
    transaction writes, that is too early: others see those writes only after the commit, so
    hold it with ``transaction=True`` until then.

    A lock that is held until the block ends belongs to the session's connection, which it
    gives back when it commits. To commit inside the block, bind the session to a connection;
    see the example. Either way the session is in a transaction from the lock on, so a
    ``get_transaction`` inside the block is a SAVEPOINT. That of a REPEATABLE READ session has
    its snapshot from before the wait.

    Args:
        session: The session, on whose connection the lock is taken. What it has pending is not
            flushed.
        key: A 64-bit integer, two 32-bit integers, or a text, which stands for
            ``hashtextextended(key, 0)``. These are three spaces of keys, the first and the last
            of which overlap. One database's keys are apart from another's.
        shared: Conflict with exclusive locks only.
        nowait: Do not wait; yield ``False`` where the lock is not to be had.
        timeout: The longest wait: seconds, a ``timedelta``, or a text as PostgreSQL takes it;
            ``None`` leaves the session's own ``lock_timeout`` in force.
        transaction: Hold the lock until the session's transaction ends, not the block.

    Yields:
        Whether the lock is held; ``False`` only with ``nowait``.

    Raises:
        InvalidArgumentError: A key outside of its range, an invalid timeout, or one beside
            ``nowait``; at the call.
        LockTimeoutError: The lock was not to be had in time. The transaction stays usable.
        SessionStateError: A commit inside the block would take the lock away, something else
            has (at the end of the block), or the session is in AUTOCOMMIT.

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
        _count(held, +1)  # before it is held: whatever happens next, the pool will unlock
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
        if granted and not lock.transaction:  # in the very moment of the cancellation
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


# Not event.contains(), which knows its targets by id(): another's, once that is gone.
_listening: Final[WeakSet[Pool]] = WeakSet()


def _release(session: Session, held: Connection, lock: _Lock) -> None:
    """Release the lock; in a failed transaction, as soon as that is rolled back.

    The pool would be late then: a SAVEPOINT may be all that is rolled back, and a connection
    that a session is bound to does not return.
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
    """Count the locks of a connection, so that its pool knows what to release."""
    pool = held.engine.pool
    if pool not in _listening:
        _listening.add(pool)
        event.listen(pool, "reset", _unlock_all)
    held.info[_HELD] = held.info.get(_HELD, 0) + step


def _unlock_all(
    dbapi_connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
) -> None:
    if entry.info.pop(_HELD, 0) and not state.terminate_only:
        dbapi_connection.rollback()  # a transaction that has failed would refuse
        cursor = dbapi_connection.cursor()
        cursor.execute("SELECT pg_advisory_unlock_all()")
        cursor.close()
        dbapi_connection.rollback()


@contextmanager
def _kept(session: AsyncSession, lock: _Lock) -> Generator[None]:
    """Refuse commits that would give the connection, and the lock with it, to the pool."""
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
    """The key as the arguments of PostgreSQL's functions, and their parameters."""
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
