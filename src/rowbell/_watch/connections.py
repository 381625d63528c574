"""The connections of a watcher: the dedicated one that listens, and those that reads borrow.

The dedicated connection is made as the engine makes its own (URL, ``connect_args``,
``do_connect`` and ``connect`` hooks, ``async_creator``), but by a pool of its own. So it takes no
place in the engine's pool.

A read borrows a connection that is idle in the engine's pool, or that the pool may open within
its size. If all places are taken, perhaps by the sessions that wait, the read opens a connection
of its own and does not queue.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import anyio
from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from rowbell._cancellation import cancelled_once, complete, own_cancellations
from rowbell._urls import refuse_libpq_arguments
from rowbell._watch.failures import (
    UnreachableError,
    is_of_the_connection,
    is_passing,
    may_be_stale,
)
from rowbell.errors import InvalidArgumentError, UnsupportedEngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import asyncpg
    from sqlalchemy import URL, Dialect

    from rowbell._watch.timing import Timing

P = ParamSpec("P")
T = TypeVar("T")


def check_engine(engine: object) -> None:
    """Refuse an engine whose rows cannot be watched.

    Raises:
        UnsupportedEngineError: Not an ``AsyncEngine``, or one whose sessions share a
            connection, or whose URL has an argument that asyncpg does not know.
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
    """Makes the connections of one watcher.

    Args:
        engine: The engine whose rows are watched.
        listen_url: Where to LISTEN instead, past a pooler.
        timing: The watcher's times.

    Attributes:
        listen_dialect: The dialect of the dedicated connection.

    Raises:
        InvalidArgumentError: ``listen_url`` names a driver without asyncio.
    """

    def __init__(self, engine: AsyncEngine, listen_url: str | URL | None, timing: Timing) -> None:
        self._engine = engine
        self.listen_dialect: Dialect = engine.dialect
        if listen_url is not None:
            url = make_url(listen_url)
            self.listen_dialect = url.get_dialect()()
            if not self.listen_dialect.is_async:
                expected = "a URL with an asyncio driver, postgresql+asyncpg://…"
                raise InvalidArgumentError("listen_url", url.render_as_string(), expected)
        self._listen_url = listen_url
        self._timing = timing

    async def run(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run a function on a connection in AUTOCOMMIT, for as long as a few statements take.

        Where that fails for a reason that may be the connection's, it is run once more, at once and
        on a new one; if that succeeds, the old connection leaves the pool.

        Raises:
            UnreachableError: No connection could be made.
        """
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and not pool.checkedin() and pool.overflow() >= 0:
            return await self.run_apart(function, *arguments, **keywords)
        async with _connected(self._engine) as connection:
            try:
                return await _in_autocommit(connection, function, *arguments, **keywords)
            except Exception as error:
                if not is_of_the_connection(error):
                    raise
                failure = error
            try:
                result = await self.run_apart(function, *arguments, **keywords)
            except UnreachableError:
                if is_passing(failure) or may_be_stale(failure):
                    raise
                raise failure from None
            await complete(connection.invalidate())
            return result

    async def run_apart(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run it on a new connection, beside the engine's pool.

        Raises:
            UnreachableError: It could not be made.
        """
        return await run_apart(self._engine, function, *arguments, **keywords)

    async def run_pooled(
        self,
        function: Callable[Concatenate[Connection, P], T],
        /,
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Run it on a connection of the pool, even if that remembers an old schema.

        Raises:
            UnreachableError: None could be had.
        """
        async with _connected(self._engine) as connection:
            return await _in_autocommit(connection, function, *arguments, **keywords)

    @asynccontextmanager
    async def dedicated(self) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """The LISTEN connection, as asyncpg's own object; always a new one, never revived.

        Raises:
            UnreachableError: It could not be made.
        """
        engine = self._listen_engine() if self._listen_url else _apart(self._engine)
        try:
            with anyio.fail_after(self._timing.connect):
                connection = await _connect(engine)
            try:
                raw = await connection.get_raw_connection()
                driver = cast("asyncpg.Connection[Any]", raw.driver_connection)
                try:
                    yield driver
                finally:
                    await complete(self._part(driver))
            finally:
                await complete(_throw_away(connection))
        finally:
            await complete(engine.dispose())

    async def _part(self, driver: asyncpg.Connection[Any]) -> None:
        """Close the connection; abort it if the server does not answer."""
        if not driver.is_closed():
            with anyio.move_on_after(self._timing.close), suppress(Exception):  # it may be lost
                await driver.close()
            if not driver.is_closed():
                driver.terminate()

    async def notify(self, channel: str) -> None:
        """NOTIFY from another connection than the one that listens."""
        statement = text("SELECT pg_catalog.pg_notify(CAST(:channel AS text), '')")
        await self.run(Connection.execute, statement, {"channel": channel})

    def _listen_engine(self) -> AsyncEngine:
        assert self._listen_url is not None  # noqa: S101  # for the type checker
        engine = create_async_engine(self._listen_url, poolclass=NullPool)
        # Hooks that rotate credentials stand on the engine's dialect: let them serve here too.
        event.listen(engine.sync_engine, "do_connect", self._engine_hooks)
        return engine

    def _engine_hooks(self, *arguments: Any) -> Any:
        for hook in self._engine.dialect.dispatch.do_connect:
            connection = hook(*arguments)
            if connection is not None:
                return connection
        return None


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        with own_cancellations():
            return await engine.connect()
    except Exception as error:
        raise UnreachableError(error) from error


async def _throw_away(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()


async def run_apart(
    engine: AsyncEngine,
    function: Callable[Concatenate[Connection, P], T],
    /,
    *arguments: P.args,
    **keywords: P.kwargs,
) -> T:
    """Run a function on a new connection, made as the engine makes its own, beside its pool.

    Raises:
        UnreachableError: It could not be made.
    """
    apart = _apart(engine)
    try:
        async with _connected(apart) as connection:
            return await _in_autocommit(connection, function, *arguments, **keywords)
    finally:
        await complete(apart.dispose())


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    connection = await _connect(engine)
    try:
        yield connection
    finally:
        await complete(connection.close())


async def _in_autocommit(
    connection: AsyncConnection,
    function: Callable[Concatenate[Connection, P], T],
    /,
    *arguments: P.args,
    **keywords: P.kwargs,
) -> T:
    def run(sync: Connection) -> T:
        # Set on the connection: an engine may come with an isolation level of its own.
        sync.execution_options(isolation_level="AUTOCOMMIT")
        return function(sync, *arguments, **keywords)

    return await cancelled_once(connection.run_sync(run))


def _apart(engine: AsyncEngine) -> AsyncEngine:
    """An engine that makes the same connections in a pool of its own."""
    original = engine.sync_engine
    apart = Engine(
        original.pool.recreate(),
        original.dialect,
        original.url,
        hide_parameters=original.hide_parameters,
    )
    return AsyncEngine(apart)
