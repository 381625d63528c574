"""The connections that reads use.

A read uses a connection that is idle in the engine's pool, or that the pool may open within its
size. If all are in use, perhaps by the sessions that wait, the read opens a separate connection and
does not queue.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.util import greenlet_spawn

from rowbell._cancellation import cancelled_once, complete, own_cancellations
from rowbell._urls import refuse_libpq_arguments
from rowbell._watch.failures import (
    UnreachableError,
    is_of_the_connection,
    is_passing,
    may_be_stale,
)
from rowbell.errors import UnsupportedEngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


P = ParamSpec("P")
T = TypeVar("T")


def check_engine(engine: object) -> None:
    """Refuse an engine that rows cannot be watched on.

    Raises:
        UnsupportedEngineError: It is not an ``AsyncEngine``, its sessions share a connection, or
            its URL has an argument that asyncpg does not know.
    """
    if not isinstance(engine, AsyncEngine):
        raise UnsupportedEngineError(
            f"rows are watched on an AsyncEngine, not on {type(engine).__name__}: "
            "use create_async_engine()"
        )
    refuse_libpq_arguments(engine.sync_engine)
    if isinstance(engine.pool, StaticPool):
        raise UnsupportedEngineError(
            f"{engine!r} gives all sessions one connection (StaticPool), so that committed and "
            "uncommitted rows look alike: use a database file, or another pool"
        )


class Connections:
    """The connections of one watcher's reads.

    Args:
        engine: The engine whose rows are watched.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run a function, which takes only a few statements, on a connection in AUTOCOMMIT.

        If it fails and the connection may be the reason, it is run again at once on a new
        connection. If that succeeds, the old connection is removed from the pool.

        Raises:
            UnreachableError: No connection could be opened.
        """
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and not pool.checkedin() and pool.overflow() >= 0:
            return await self.run_apart(function, *arguments, **keywords)

        def work(connection: Connection) -> T:
            return function(connection, *arguments, **keywords)

        failed: list[Connection] = []
        try:
            return await _run(self._engine, work, failed)
        except Exception as error:
            if not failed:
                raise
            return await self._run_again(work, failed[0], error)
        finally:  # also if this was cancelled when the connection had just failed
            for connection in failed:
                await complete(greenlet_spawn(connection.close))

    async def _run_again(
        self, work: Callable[[Connection], T], connection: Connection, failure: Exception
    ) -> T:
        """Run it on a new connection, because the failure may be that of the old one."""
        try:
            result = await self.run_apart(work)
        except UnreachableError:
            if is_passing(failure) or may_be_stale(failure):
                raise
            raise failure from None
        await complete(greenlet_spawn(connection.invalidate))
        return result

    async def run_apart(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run it on a new connection, outside the engine's pool.

        Raises:
            UnreachableError: The connection could not be opened.
        """
        return await run_apart(self._engine, function, *arguments, **keywords)

    async def run_pooled(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run it on a connection of the pool, even if that has cached an old schema.

        Raises:
            UnreachableError: The pool could not provide a connection.
        """
        return await _run(self._engine, lambda c: function(c, *arguments, **keywords))

    async def notify(self, channel: str) -> None:
        """NOTIFY from a connection of the engine, not from the one that listens."""
        statement = text("SELECT pg_catalog.pg_notify(CAST(:channel AS text), '')")
        await self.run(Connection.execute, statement, {"channel": channel})


@contextmanager
def unreachable() -> Generator[None]:
    """An error in the block, of a driver or of a hook, means that nothing is connected.

    Raises:
        UnreachableError: It has the error as its reason.
    """
    try:
        with own_cancellations():
            yield
    except Exception as error:
        raise UnreachableError(error) from error


async def run_apart(
    engine: AsyncEngine,
    function: Callable[Concatenate[Connection, P], T],
    /,
    *arguments: P.args,
    **keywords: P.kwargs,
) -> T:
    """Run a function on a new connection, created as the engine does, but outside its pool.

    Raises:
        UnreachableError: The connection could not be opened.
    """
    own = apart(engine)
    try:
        return await _run(own, lambda c: function(c, *arguments, **keywords))
    finally:
        await complete(own.dispose())


async def _run(
    engine: AsyncEngine, work: Callable[[Connection], T], failed: list[Connection] | None = None
) -> T:
    """Connect, work, and close: in one of SQLAlchemy's greenlets, which costs least.

    Args:
        engine: The engine to connect by.
        work: What to do on the connection.
        failed: If given, a connection that may be the reason of an error is added to it, and is not
            closed.

    Raises:
        UnreachableError: No connection could be opened.
    """

    def run() -> T:
        with unreachable():
            connection = engine.sync_engine.connect()
        try:
            # Set on the connection: the engine may have its own isolation level.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            result = work(connection)
        except BaseException as error:
            if failed is not None and isinstance(error, Exception) and is_of_the_connection(error):
                failed.append(connection)
            else:
                connection.close()
            raise
        connection.close()
        return result

    return await cancelled_once(greenlet_spawn(run))


def apart(engine: AsyncEngine) -> AsyncEngine:
    """An engine that creates the same connections in a separate pool."""
    original = engine.sync_engine
    sync_engine = Engine(
        original.pool.recreate(),
        original.dialect,
        original.url,
        hide_parameters=original.hide_parameters,
    )
    return AsyncEngine(sync_engine)
