"""The connection that listens: always asyncpg's, created from the engine's own settings.

An engine on asyncpg creates it as it creates its own connections (URL, ``connect_args``,
``do_connect`` and ``connect`` hooks, ``async_creator``), but in a separate pool. So it takes no
place in the engine's pool.

An engine on psycopg cannot create it. The engine is asked what it would connect with, by an attempt
that ends before it connects: no public attribute shows ``connect_args``, or a password that a hook
has rotated. That is translated for asyncpg.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from weakref import WeakKeyDictionary, WeakSet

import anyio
import asyncpg
from sqlalchemy import URL, Dialect, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rowbell._cancellation import complete
from rowbell._libpq import UntranslatableError, translated
from rowbell._watch.connections import apart, unreachable
from rowbell._watch.state import logger
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from rowbell._watch.timing import Timing

    ListenConnect: TypeAlias = Callable[
        [], asyncpg.Connection[Any] | Awaitable[asyncpg.Connection[Any]]
    ]
    """A function that creates the connection that listens."""

_LIBPQ: Final = {"postgresql", "postgresql+psycopg", "postgresql+psycopg_async"}
"""The drivers of URLs that have libpq's parameters."""


class ListenConnection:
    """Creates the connection that listens.

    Args:
        engine: The engine whose rows are watched.
        url: Another URL to LISTEN on, which bypasses a pooler.
        connect: A function that creates the connection instead.
        timing: The watcher's times.

    Raises:
        InvalidArgumentError: The URL is not one for asyncpg or psycopg, ``connect`` is not a
            function, or both are given.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        url: str | URL | None,
        connect: ListenConnect | None,
        timing: Timing,
    ) -> None:
        self._engine = engine
        self._url = None if url is None else make_url(url)
        self._connect = connect
        self._timing = timing
        if self._url is not None and self._url.drivername not in {*_LIBPQ, "postgresql+asyncpg"}:
            expected = "a URL for asyncpg or psycopg, postgresql+asyncpg://…"
            raise InvalidArgumentError("listen_url", self._url.render_as_string(), expected)
        if connect is not None and not callable(connect):
            raise InvalidArgumentError("listen_connect", connect, "a function")
        if connect is not None and url is not None:
            raise InvalidArgumentError("listen_connect", connect, "None beside listen_url")

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """A new connection. It is closed when the block ends.

        Raises:
            UnreachableError: It could not be opened.
            UntranslatableError: asyncpg cannot connect as the engine does.
        """
        made: AbstractAsyncContextManager[asyncpg.Connection[Any]]
        if self._connect is not None:
            made = self._made_by(self._connect)
        elif self._url is not None:
            made = self._of_libpq(self._url) if self._url.drivername in _LIBPQ else self._of_url()
        elif self._engine.dialect.driver == "asyncpg":
            made = self._of_engine(apart(self._engine))
        elif self._engine.dialect.driver == "psycopg":
            made = self._of_libpq(None)
        else:
            driver = f"{self._engine.dialect.name}+{self._engine.dialect.driver}"
            raise UntranslatableError(f"{driver} cannot LISTEN, only asyncpg and psycopg can")
        async with made as connection:
            try:
                yield connection
            finally:
                await complete(self._close(connection))

    async def _close(self, connection: asyncpg.Connection[Any]) -> None:
        """Close the connection; abort it if the server does not answer."""
        if not connection.is_closed():
            with anyio.move_on_after(self._timing.close), suppress(Exception):  # it may be lost
                await connection.close()
            if not connection.is_closed():
                connection.terminate()

    # -- the ways to create it

    @asynccontextmanager
    async def _of_engine(self, engine: AsyncEngine) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """As this engine on asyncpg creates its connections. The engine is disposed of."""
        try:
            with anyio.fail_after(self._timing.connect), unreachable():
                connection = await engine.connect()
            try:
                raw = await connection.get_raw_connection()
                yield cast("asyncpg.Connection[Any]", raw.driver_connection)
            finally:
                await complete(_throw_away(connection))
        finally:
            await complete(engine.dispose())

    def _of_url(self) -> AbstractAsyncContextManager[asyncpg.Connection[Any]]:
        assert self._url is not None  # noqa: S101  # for the type checker
        engine = create_async_engine(self._url, poolclass=NullPool)
        # Hooks that rotate credentials belong to the engine's dialect: use them here too.
        event.listen(engine.sync_engine, "do_connect", self._engine_hooks)
        return self._of_engine(engine)

    @asynccontextmanager
    async def _of_libpq(self, url: URL | None) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """With the parameters of that URL, or of the engine on psycopg."""
        with anyio.fail_after(self._timing.connect):
            parameters = await self._parameters_of_engine() if url is None else self._of(url)
            translation = translated(parameters)
            for name, why in translation.ignored.items():
                logger.debug("rowbell ignores %s for its LISTEN connection: %s", name, why)
            with unreachable():
                connection = await asyncpg.connect(**translation.arguments)
        yield connection

    @asynccontextmanager
    async def _made_by(self, connect: ListenConnect) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """By a function of the application."""
        with anyio.fail_after(self._timing.connect), unreachable():
            called = connect()
            made = await called if inspect.isawaitable(called) else called
        yield _checked(made)

    # -- the parameters

    def _of(self, url: URL) -> Mapping[str, object]:
        arguments, parameters = url.get_dialect()().create_connect_args(url)
        with unreachable():
            made = self._engine_hooks(self._engine.dialect, None, arguments, parameters)
        if made is not None:
            raise UntranslatableError(_MADE_BY_HOOK)
        return parameters

    def _engine_hooks(self, *arguments: Any) -> Any:
        for hook in list(self._engine.dialect.dispatch.do_connect):
            connection = hook(*arguments)
            if connection is not None:
                return connection
        return None

    async def _parameters_of_engine(self) -> Mapping[str, object]:
        """What the engine on psycopg would connect with. It does not connect."""
        engine, task = apart(self._engine), asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker
        _end_attempts(engine.dialect)
        attempt = _attempts[task] = _Attempt(engine.dialect)
        try:
            with unreachable(), suppress(_AttemptEndedError):
                await _throw_away(await engine.connect())
        finally:
            del _attempts[task]
            await complete(engine.dispose())
        if attempt.parameters is None:
            raise UntranslatableError(_MADE_BY_HOOK)
        return attempt.parameters


_MADE_BY_HOOK: Final = (
    "the engine's connections are created by its async_creator, or by a do_connect hook, and "
    "cannot be translated for asyncpg"
)


class _AttemptEndedError(Exception):
    """An attempt to connect was ended on purpose, before it connected."""


@dataclass(slots=True)
class _Attempt:
    """An attempt to connect that only asks for the parameters.

    Attributes:
        dialect: The dialect of the engine.
        parameters: What it would have connected with.
    """

    dialect: Dialect
    parameters: Mapping[str, object] | None = None


_attempts: Final[WeakKeyDictionary[asyncio.Task[Any], _Attempt]] = WeakKeyDictionary()
_ended: Final[WeakSet[Dialect]] = WeakSet()


def _end_attempts(dialect: Dialect) -> None:
    """Make a dialect end such attempts, after all ``do_connect`` hooks were called.

    A hook cannot be added for that: another task may be suspended inside a hook, and then
    SQLAlchemy iterates over the hooks.
    """
    if dialect in _ended:
        return
    _ended.add(dialect)
    connect = dialect.connect

    def connect_or_end(*arguments: Any, **parameters: Any) -> Any:
        task = asyncio.current_task()
        attempt = None if task is None else _attempts.get(task)
        # A hook may connect to another engine, or from another task.
        if attempt is None or attempt.dialect is not dialect:
            return connect(*arguments, **parameters)
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415  # an extra's

        attempt.parameters = conninfo_to_dict(*arguments) | parameters
        raise _AttemptEndedError

    dialect.connect = connect_or_end  # type: ignore[method-assign]


def _checked(made: object) -> asyncpg.Connection[Any]:
    # Not isinstance(): asyncpg says that a connection lent by its pool is one, too.
    if asyncpg.Connection not in type(made).__mro__:
        raise UntranslatableError(
            f"listen_connect has returned a {type(made).__name__}, not an asyncpg.Connection"
        )
    return cast("asyncpg.Connection[Any]", made)


async def _throw_away(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()
