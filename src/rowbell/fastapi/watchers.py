"""An application's watchers: open while it runs, and parameters of its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypedDict, Unpack
from weakref import WeakKeyDictionary

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection

from rowbell._watch.state import Mode
from rowbell._watch.timing import Timing
from rowbell._watch.watcher import RowWatcher
from rowbell.errors import WatcherStateError
from rowbell.fastapi.reconnection import retry_after
from rowbell.fastapi.shutdown_log import one_line_each
from rowbell.fastapi.signals import called_before_the_end

if TYPE_CHECKING:
    from rowbell._watch.listen_connection import ListenConnect
    from rowbell._watch.wire.transport import Notifies

Watchers: TypeAlias = dict[AsyncEngine, RowWatcher]
PerLoop: TypeAlias = WeakKeyDictionary[asyncio.AbstractEventLoop, Watchers]
Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]

_WATCHERS: Final = "rowbell_watchers"


class WatcherArguments(TypedDict, total=False):
    """The arguments of ``RowWatcher``, which explains them."""

    mode: Mode | str
    listen_url: str | URL | None
    listen_connect: ListenConnect | None
    notifier: Notifies | None
    recheck: float | timedelta | None
    timing: Timing | None


def lifespan(engine: AsyncEngine, **arguments: Unpack[WatcherArguments]) -> Lifespan:
    """A lifespan that keeps a watcher open, for an application or a router.

    The application starts at once, even if the database is down: its waits poll until it can be
    listened to. When the process is told to end (SIGTERM or SIGINT), streams and long polls end at
    once, so that the server does not wait for their clients. The handlers that the server has set
    for these signals are called after that. Signals are seen in the main thread only.

    Lifespans may be nested, or be those of several routers. Several of one engine share the
    watcher of the first; only that one may have arguments. For two databases use two lifespans and
    :func:`watcher_of`.

    Args:
        engine: The engine whose rows are watched. It is not disposed of at the end.
        **arguments: See ``RowWatcher``.

    Returns:
        What FastAPI takes as ``lifespan=``. Its state has the open watchers, by engine, as
        ``state["rowbell_watchers"]``. It raises ``WatcherStateError`` at the start if the
        engine already has a watcher in this event loop.

    Raises:
        UnsupportedEngineError, InvalidArgumentError: An argument is invalid.

    Example:
        .. code-block:: python

            app = FastAPI(lifespan=rowbell.fastapi.lifespan(engine))

        With something of your own:

        .. code-block:: python

            @asynccontextmanager
            async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
                async with rowbell.fastapi.lifespan(engine)(app) as state:
                    yield state
                await engine.dispose()
    """
    RowWatcher(engine, **arguments)  # invalid arguments are refused here

    @asynccontextmanager
    async def watching(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        per_loop: PerLoop | None = getattr(app.state, _WATCHERS, None)
        if per_loop is None:
            per_loop = WeakKeyDictionary()
            setattr(app.state, _WATCHERS, per_loop)
        watchers = per_loop.setdefault(asyncio.get_running_loop(), {})
        if engine in watchers:
            if arguments:
                raise WatcherStateError(
                    f"{watchers[engine]!r} already serves this app: give the arguments "
                    f"{sorted(arguments)} to the first lifespan of the engine"
                )
            yield {_WATCHERS: watchers}
            return
        watcher = RowWatcher(engine, **arguments)
        watcher.start()
        watchers[engine] = watcher
        is_ending = watcher.streams_closing.is_set
        with one_line_each(is_ending):  # the server cancels responses before this ends
            try:
                with called_before_the_end(watcher.close_streams):
                    yield {_WATCHERS: watchers}
            finally:
                del watchers[engine]
                await watcher.aclose()

    return watching


def watchers_of(connection: HTTPConnection) -> Watchers:
    """The watchers of a request's app. A mounted app has those of the app that it is mounted on."""
    per_loop: PerLoop = getattr(connection.app.state, _WATCHERS, WeakKeyDictionary())
    inherited: Watchers = getattr(connection.state, _WATCHERS, {})
    return per_loop.get(asyncio.get_running_loop()) or inherited


def watcher_of(engine: AsyncEngine) -> Callable[[HTTPConnection], Awaitable[RowWatcher]]:
    """A dependency: the watcher of that engine. It is for applications with several.

    Args:
        engine: The engine that was given to ``lifespan``.

    Returns:
        A function for ``Depends``. It raises ``WatcherStateError`` if there is no such watcher, and
        answers 503 when the process is to end.

    Example:
        .. code-block:: python

            OrdersDep = Annotated[RowWatcher, Depends(rowbell.fastapi.watcher_of(engine))]
    """

    # A plain function would run in a thread.
    async def watcher(connection: HTTPConnection) -> RowWatcher:
        found = watchers_of(connection).get(engine)
        if found is None:
            raise WatcherStateError(
                f"this app has no open watcher of the engine {engine.url.database!r}: "
                "FastAPI(lifespan=rowbell.fastapi.lifespan(engine))"
            )
        return _open(found)

    return watcher


def closing() -> HTTPException:
    """The answer of a process that is to end."""
    return HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, headers=retry_after())


def _open(watcher: RowWatcher) -> RowWatcher:
    """Refuse a request that comes when the process is to end."""
    if watcher.streams_closing.is_set():
        raise closing()
    return watcher


async def _only_watcher(connection: HTTPConnection) -> RowWatcher:
    found = list(watchers_of(connection).values())
    if len(found) == 1:
        return _open(found[0])
    if found:
        raise WatcherStateError(
            f"this app has {len(found)} watchers: name the engine, with "
            "Annotated[RowWatcher, Depends(rowbell.fastapi.watcher_of(engine))]"
        )
    raise WatcherStateError(
        "this app has no open watcher: FastAPI(lifespan=rowbell.fastapi.lifespan(engine)). "
        "A server or a test client must run the lifespan"
    )


WatcherDep: TypeAlias = Annotated[RowWatcher, Depends(_only_watcher)]
"""A parameter of an endpoint or a dependency: the app's watcher, if it has one. When the process
is to end, the answer is 503."""
