"""RowWatcher: one board, one reader and one listener, started and stopped together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import anyio

from rowbell._cancellation import complete, own_cancellations
from rowbell._watch.arguments import WaitArguments, takes_wait_arguments
from rowbell._watch.assembly import assemble
from rowbell._watch.board.watch import Watch
from rowbell._watch.connections import Connections, check_engine
from rowbell._watch.event_loop import running_loop
from rowbell._watch.last_read import LastRead
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.narrowing import narrowed
from rowbell._watch.observers import Observers, take_notice
from rowbell._watch.per_engine import PerEngine
from rowbell._watch.predicate_timer import PredicateTimer
from rowbell._watch.reasons import Reason, explain
from rowbell._watch.request import WaitRequest
from rowbell._watch.state import Mode, StateLog, WatcherState, logger
from rowbell._watch.statistics import statistics_of
from rowbell._watch.timing import Timing, seconds_of
from rowbell.errors import InvalidArgumentError, ListenError, WatcherStateError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable
    from datetime import timedelta

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._watch.listen_connection import ListenConnect
    from rowbell._watch.reading.reader import Reader
    from rowbell._watch.statistics import WatcherStatistics
    from rowbell._watch.subscription import Subscription

ModelT = TypeVar("ModelT")


class RowWatcher:
    """Watches rows of one engine, for all waits of one event loop.

    An application that waits for rows keeps one watcher open, for example in FastAPI's lifespan.
    Every ``wait_for_row_change`` on a session of that engine then uses it. It holds one
    dedicated connection to the server, outside of the engine's pool.

    Args:
        engine: The engine whose rows are watched.
        mode: ``"auto"`` (the default) listens, and polls if it cannot listen; ``"listen"`` raises
            an error if it cannot; ``"poll"`` opens no connection.
        listen_url: Another URL to LISTEN on, if the engine uses a pooler or reads elsewhere: the
            URL of the server itself, for asyncpg or psycopg.
        listen_connect: A function, or a coroutine function, that returns a new
            ``asyncpg.Connection`` to LISTEN on. It is for engines with settings that asyncpg does
            not have. The watcher closes the connection.
        recheck: How often the row of an armed wait is read without a notification, in seconds
            (default 30), because some changes fire no trigger. ``None`` for never.
        timing: All other times.

    Raises:
        UnsupportedEngineError: It is not an ``AsyncEngine``, or its sessions share a connection.
        InvalidArgumentError: One of the other arguments is invalid.

    Example:
        .. code-block:: python

            async with rowbell.RowWatcher(engine) as watcher:
                order = await watcher.wait_for_change(Order, 7, timeout=30)
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        mode: Mode | str = Mode.AUTO,
        listen_url: str | URL | None = None,
        listen_connect: ListenConnect | None = None,
        recheck: float | timedelta | None = 30.0,
        timing: Timing | None = None,
    ) -> None:
        check_engine(engine)
        if mode not in set(Mode):
            raise InvalidArgumentError("mode", mode, "'auto', 'listen' or 'poll'")
        every = None if recheck is None else seconds_of("recheck", recheck)
        self._engine = engine
        self._mode = Mode(mode)
        self._timing = timing or Timing()
        self._connections = Connections(engine)
        listen_connection = ListenConnection(engine, listen_url, listen_connect, self._timing)
        self._observers = Observers(self.statistics)
        self._state = StateLog(engine, self._observers.changed)
        parts = assemble(
            self._connections,
            listen_connection,
            self._state,
            mode=self._mode,
            recheck=every,
            timing=self._timing,
            changed=self._observers.changed,
        )
        self._board, self._reader = parts.board, parts.reader
        self._notifier, self._subscription = parts.notifier, parts.subscription
        self._loop: AbstractEventLoop | None = None
        self._task: Task[None] | None = None
        self._failure: BaseException | None = None

    # -- start and stop

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.reached(lambda now: now.state is not WatcherState.CONNECTING)
        except BaseException:
            await self.aclose()
            raise
        if self._state.state is WatcherState.CLOSED:
            raise WatcherStateError(f"{self!r} could not start: {self._failure!r}")
        if self._mode is Mode.LISTEN and self._state.state is not WatcherState.LISTENING:
            reason, detail = self._state.reason or Reason.CONNECTION_LOST, self._state.detail
            await self.aclose()
            raise ListenError(reason, detail)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Begin to watch, without waiting for the first connection.

        Raises:
            WatcherStateError: It was started before, or another watcher of the engine is open
                in this event loop.
        """
        if self._task is not None:
            raise WatcherStateError(f"{self!r} cannot be entered twice: create a new one")
        self._loop = running_loop()
        if other := _open.get(self._engine):
            raise WatcherStateError(
                f"{other!r} already watches this engine in this event loop: one watcher serves "
                "all waits, so share it"
            )
        _open.add(self._engine, self)
        if self._mode is Mode.POLL:
            self._state.enter(WatcherState.POLLING, Reason.REQUESTED, 'mode="poll"')
        else:
            self._state.enter(WatcherState.CONNECTING)
        self._task = asyncio.create_task(self._run(), name=f"rowbell {self!r}")

    async def aclose(self) -> None:
        """Close the watcher: waits that have not ended raise. Calling it again does nothing."""
        if self._task is None or self._loop is None:
            self._state.enter(WatcherState.CLOSED)
            return
        if self._loop is not asyncio.get_running_loop():
            raise WatcherStateError(f"{self!r} belongs to another event loop: close it there")
        self._leave()
        self._reader.stop()
        self._subscription.stop()
        await complete(self._task, self._timing.close)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_run, self._reader)
                if self._mode is not Mode.POLL:
                    tasks.start_soon(_run, self._subscription)
        except asyncio.CancelledError:
            raise
        except BaseException as failure:
            self._failure = failure
            logger.exception("rowbell %r failed: its waits end", self)
            if not isinstance(failure, Exception):
                raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close from now on: waits end, and new ones are refused."""
        if self._loop is not None:
            _open.remove(self._loop, self._engine, self)
        why = f"it failed: {self._failure!r}" if self._failure else "it was closed during the wait"
        self._board.fail_all(lambda: WatcherStateError(f"{self!r} cannot wait any more: {why}"))
        self._state.enter(WatcherState.CLOSED)

    # -- waits

    @takes_wait_arguments
    async def wait_for_change(
        self, model: type[ModelT], pk_value: object, **arguments: Unpack[WaitArguments]
    ) -> ModelT:
        """Wait until a row changes; return it as an instance that belongs to no session.

        It works as ``wait_for_row_change``, without a session. Waits for the same row that end
        together may return the same instance.

        Args:
            model: The mapped class.
            pk_value: The primary key, in a form that ``Session.get`` takes.
            **arguments: How to wait: see ``WaitArguments``.

        Returns:
            The row after the change, detached.

        Raises:
            NotFoundError: The row does not exist, or was deleted.
            WaitTimeoutError: No change within ``timeout``.
            InvalidKeyError, InvalidColumnError, InvalidArgumentError, UnmappedModelError,
                TypeError: An argument is invalid.
            WatcherStateError: The watcher is not open, or belongs to another event loop.
            ListenError: ``mode="listen"``, and this wait can only be polled.
            DBAPIError: The row cannot be read, for a reason that does not pass.

        Example:
            .. code-block:: python

                order = await watcher.wait_for_change(Order, 7, until=Order.status == "paid")
        """
        schema_map = self._engine.get_execution_options().get("schema_translate_map")
        request = WaitRequest.of(self._engine.dialect, schema_map, model, pk_value, arguments)
        instance: ModelT = await self.wait(request, wants_instance=True)
        return instance

    async def wait(self, request: WaitRequest, *, wants_instance: bool) -> Any:
        """Wait as requested. Without ``wants_instance`` the result may be ``None``."""
        self._check_open()
        begun = asyncio.get_running_loop().time()
        request = await narrowed(request, self._connections, begun, self._timing, self._check_open)
        if (never_armed := request.never_armed) and self._mode is not Mode.POLL:
            self._say_never_armed(never_armed, request.subject)
        watch = Watch(
            request,
            request.deadline(begun),
            result=asyncio.get_running_loop().create_future(),
            wants_instance=wants_instance,
            never_armed=never_armed,
        )
        last_read = LastRead(watch, self._timing.last_read)
        predicate = PredicateTimer(watch) if request.predicate else None
        try:
            self._board.add(watch)
            return await watch.result
        finally:
            last_read.stop()
            if predicate:
                predicate.stop()
            self._board.discard(watch)
            take_notice(watch.result)

    def _say_never_armed(self, reason: Reason, subject: str) -> None:
        if self._mode is Mode.LISTEN:
            raise ListenError(reason, explain(reason, subject))
        self._state.warn(reason, subject)

    def _check_open(self) -> None:
        if self._task is None:
            raise WatcherStateError(f"{self!r} is not open: enter it with `async with`")
        if self._loop is not asyncio.get_running_loop():
            raise WatcherStateError(f"{self!r} belongs to another event loop: create one here")
        if self._state.state is WatcherState.CLOSED:
            raise WatcherStateError(f"{self!r} is closed: create a new one")

    # -- what it does

    def statistics(self) -> WatcherStatistics:
        """What the watcher is doing now; see ``WatcherStatistics``."""
        return statistics_of(self._board, self._reader, self._notifier.status, self._state)

    async def reached(self, condition: Callable[[WatcherStatistics], object]) -> None:
        """Wait until a condition on the statistics is true: ``lambda now: now.armed == 100``.

        Raises:
            WatcherStateError: The watcher is closed, or was closed before that.
        """
        if not condition(self.statistics()):
            self._check_open()
            await self._observers.reached(condition)

    def __repr__(self) -> str:
        return f"<RowWatcher of {self._engine.url.database!r}, {self._state.state}>"


async def _run(part: Reader | Subscription) -> None:
    """Run a part until it is stopped or cancelled. Any other end is a failure of the watcher."""
    with own_cancellations():
        await part.run()


_open: PerEngine[RowWatcher] = PerEngine()


def open_watcher(engine: AsyncEngine) -> RowWatcher | None:
    """The watcher that is open for this engine in this event loop, if there is one."""
    return _open.get(engine)
