"""How the caller's session selects the row after the wait, if it cannot adopt the instance."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

import anyio
from sqlalchemy import Connection, Engine, and_, inspect, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, SessionTransactionOrigin, undefer
from sqlalchemy.pool import QueuePool

from rowbell._cancellation import cancelled_once
from rowbell._watch.caller.adoption import expire_unchanged
from rowbell._watch.caller.held_connection import held_connection
from rowbell._watch.connections import run_apart
from rowbell._watch.failures import UnreachableError, is_of_the_connection, is_passing
from rowbell._watch.state import logger
from rowbell._watch.timing import Backoff, Timing
from rowbell.errors import NotFoundError, RowbellError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._watch.request import WaitRequest


async def refresh(session: AsyncSession, request: WaitRequest, deadline: float) -> Any:
    """The row as the session's instance. The caller's changes to it are kept.

    The wait has ended, so a server that restarts, or a connection that has cached a type that was
    dropped, must not make it fail. So in a session that holds no connection, it is tried again.

    Args:
        session: The session.
        request: The request of the wait.
        deadline: The deadline of the wait, on the event loop's clock.
    """
    loop = asyncio.get_running_loop()
    bind = session.sync_session.get_bind(request.rows.mapper)
    may_repeat = _is_ours_to_end(session.sync_session, bind)
    limited = deadline < math.inf
    limit = max(deadline, loop.time()) + _LAST if limited else loop.time() + _WITHOUT_TIMEOUT
    refreshing, warned, tries = _Refreshing(session, request), False, _places(bind.engine) + 2
    backoff = Backoff(Timing(backoff=0.1, backoff_limit=2.0))
    while True:
        try:
            return await refreshing.load()
        except Exception as error:
            repeated = may_repeat and not isinstance(error, RowbellError | PoolTimeoutError)
            if not repeated or loop.time() >= limit:
                raise
            passes, tries = is_passing(error), tries - 1
            stale = is_of_the_connection(error) and tries > 0
            if not passes and not (stale and await _can_be_loaded(bind.engine, request)):
                raise
            await session.run_sync(_end_transaction)
            if not stale:
                if not warned:
                    logger.warning(
                        "rowbell: a row has changed, but its session cannot load it yet: %s", error
                    )
                warned = True
                await anyio.sleep(min(request.interval, backoff.delay(healthy_for=0.0)))


_LAST: Final = 5.0
_WITHOUT_TIMEOUT: Final = 30.0
"""How long loading a row is tried, in seconds: after a wait's deadline, or if it has none."""


async def _can_be_loaded(engine: Engine, request: WaitRequest) -> bool:
    """Whether a new connection can load the row. If so, the session's connection is the cause."""

    def load(connection: Connection) -> None:
        statement, parameters = request.rows.load([request.key])
        options = request.rows.execution_options
        with Session(connection) as session:
            statement = statement.options(*request.options)
            session.execute(statement, parameters, execution_options=options).unique().all()

    try:
        await run_apart(AsyncEngine(engine), load)
    except UnreachableError as error:
        return error.passes
    except Exception as error:  # noqa: BLE001  # the first error is the one that counts
        return is_passing(error)
    return True


def _is_ours_to_end(session: Session, bind: Engine | Connection) -> bool:
    """Whether the session's transaction, if any, contains nothing of the caller.

    Adding an object begins a transaction that has no connection yet. A transaction that was begun
    by ``begin()`` must be ended by the caller.
    """
    if isinstance(bind, Connection) or held_connection(session, bind) is not None:
        return False
    transaction = session.get_transaction()
    begun_by_itself = (
        transaction is None or transaction.origin is SessionTransactionOrigin.AUTOBEGIN
    )
    return begun_by_itself and not session.in_nested_transaction()


def _end_transaction(session: Session) -> None:
    """End the transaction and discard its connection. The session's objects stay as they are.

    A rollback would not do: it expires changes and removes objects that were added.
    """
    transaction = session.get_transaction()
    if transaction is not None:
        transaction.close(invalidate=True)


class _Refreshing:
    """Loads the row in a session again.

    It expires and selects. ``refresh()`` or ``populate_existing`` would flush or overwrite pending
    changes in this instance and in those that are loaded with it.
    """

    def __init__(self, session: AsyncSession, request: WaitRequest) -> None:
        self._session = session
        self._request = request
        self._expired: dict[Any, list[ORMOption]] = {}

    async def load(self) -> Any:
        """Load the row.

        Raises:
            NotFoundError: The row does not exist any more.
        """
        rows, session = self._request.rows, self._session
        name = rows.mapper.identity_key_from_primary_key(self._request.key)
        present = session.sync_session.identity_map.get(name)
        instance = present
        with session.no_autoflush:
            if present is None:
                get = session.get(rows.model, self._request.key, options=self._request.options)
                instance = await cancelled_once(get)
                # Keys may be equal in the database but not in Python: then the session had it.
                if instance is not None and inspect(instance).key[1] != name[1]:
                    present = instance
            if present is not None:
                instance = await cancelled_once(self._select(present))
            if instance is None and session.sync_session.dispatch.do_orm_execute:
                # A listener may add criteria, for example of soft deletes. A wait ignores them.
                instance = await cancelled_once(self._select_unfiltered())
        if instance is None:
            raise NotFoundError(rows.model, rows.describe(self._request.key), deleted=True)
        return instance

    async def _select(self, present: Any) -> Any:
        rows, session = self._request.rows, self._session
        if present not in self._expired:
            self._expired[present] = _expire(session.sync_session, present)
        key = zip(rows.mapper.primary_key, self._request.key, strict=True)
        statement = select(type(present)).where(and_(*(c == value for c, value in key)))
        options = (*self._request.options, *self._expired[present])
        result = await session.execute(statement.options(*options))
        return result.unique().scalar_one_or_none()

    async def _select_unfiltered(self) -> Any:
        statement, parameters = self._request.rows.load([self._request.key], unfiltered=True)
        result = await self._session.execute(statement.options(*self._request.options), parameters)
        row = result.unique().first()
        return None if row is None else tuple(row)[1]


def _places(engine: Engine) -> int:
    """The number of connections in the engine's pool that may be older than a migration."""
    pool = engine.pool
    return pool.size() + max(pool.overflow(), 0) if isinstance(pool, QueuePool) else 0


def _expire(session: Session, present: Any) -> list[ORMOption]:
    """Expire what the caller has not changed; return the options that load it again."""
    state, entity = inspect(present), type(present)
    stale = set(state.dict) - expire_unchanged(session, present)
    properties = inspect(entity).column_attrs
    deferred = [name for name in stale if name in properties and properties[name].deferred]
    return [undefer(getattr(entity, name)) for name in deferred]
