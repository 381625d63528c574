"""The life of a watcher, from its start to its end: its event loop, its tasks, and its failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from rowbell._cancellation import complete, own_cancellations
from rowbell._watch.event_loop import running_loop
from rowbell._watch.per_engine import PerEngine
from rowbell._watch.reasons import Reason
from rowbell._watch.state import Mode, StateLog, WatcherState, logger
from rowbell.errors import ListenError, WatcherStateError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task

    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._watch.assembly import Parts
    from rowbell._watch.reading.reader import Reader
    from rowbell._watch.subscription import Subscription


class Lifetime:
    """The life of one watcher.

    Args:
        watcher: The watcher, for messages and for ``opened``.
        engine: Its engine.
        parts: Its parts, of which the reader and the subscription run as tasks.
        state: The log of its state.
        mode: Whether it has a subscription.
        closing: How long closing waits for current work, in seconds.

    Attributes:
        failure: The error that has ended it.
    """

    def __init__(
        self,
        watcher: object,
        engine: AsyncEngine,
        parts: Parts,
        state: StateLog,
        *,
        mode: Mode,
        closing: float,
    ) -> None:
        self.failure: BaseException | None = None
        self._watcher = watcher
        self._engine = engine
        self._parts = parts
        self._state = state
        self._mode = mode
        self._closing = closing
        self._over: Future[None] | None = None
        self._loop: AbstractEventLoop | None = None
        self._task: Task[None] | None = None

    def start(self) -> None:
        """Begin.

        Raises:
            WatcherStateError: It was started before, or another watcher of the engine is open
                in this event loop.
        """
        if self._task is not None:
            raise WatcherStateError(f"{self._watcher!r} cannot be entered twice: create a new one")
        self._loop = running_loop()
        self._over = self._loop.create_future()
        if other := opened.get(self._engine):
            raise WatcherStateError(
                f"{other!r} already watches this engine in this event loop: one watcher serves "
                "all waits, so share it"
            )
        opened.add(self._engine, self._watcher)
        if self._mode is Mode.POLL:
            self._state.enter(WatcherState.POLLING, Reason.REQUESTED, 'mode="poll"')
        else:
            self._state.enter(WatcherState.CONNECTING)
        self._task = asyncio.create_task(self._run(), name=f"rowbell {self._watcher!r}")

    def refuse_failed_start(self) -> None:
        """Refuse a watcher that has failed, or that must listen and cannot.

        Raises:
            WatcherStateError: It has failed.
            ListenError: ``mode="listen"``, and it does not listen.
        """
        if self._state.state is WatcherState.CLOSED:
            raise WatcherStateError(f"{self._watcher!r} could not start: {self.failure!r}")
        if self._mode is Mode.LISTEN and self._state.state is not WatcherState.LISTENING:
            raise ListenError(self._state.reason or Reason.CONNECTION_LOST, self._state.detail)

    async def end(self) -> None:
        """End it. Calling it again does nothing.

        Raises:
            WatcherStateError: It belongs to another event loop.
        """
        if self._task is None or self._loop is None:
            self._state.enter(WatcherState.CLOSED)
            return
        if self._loop is not asyncio.get_running_loop():
            raise WatcherStateError(
                f"{self._watcher!r} belongs to another event loop: close it there"
            )
        self._leave()
        self._parts.reader.stop()
        self._parts.subscription.stop()
        await complete(self._task, self._closing)

    @property
    def over(self) -> Future[None]:
        """Done when it has ended.

        Raises:
            WatcherStateError: It has not begun.
        """
        if self._over is None:
            self.check_open()
        assert self._over is not None  # noqa: S101  # the line before has raised
        return self._over

    def check_open(self) -> None:
        """Refuse what needs an open watcher.

        Raises:
            WatcherStateError: It is not open, or belongs to another event loop.
        """
        if self._task is None:
            raise WatcherStateError(f"{self._watcher!r} is not open: enter it with `async with`")
        self.check_loop()
        if self._state.state is WatcherState.CLOSED:
            raise WatcherStateError(f"{self._watcher!r} is closed: create a new one")

    def check_loop(self) -> None:
        """Refuse another event loop than the watcher's.

        Raises:
            WatcherStateError: It is another one.
        """
        if self._loop is not asyncio.get_running_loop():
            raise WatcherStateError(
                f"{self._watcher!r} belongs to another event loop: create one here"
            )

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_run, self._parts.reader)
                if self._mode is not Mode.POLL:
                    tasks.start_soon(_run, self._parts.subscription)
        except asyncio.CancelledError:
            raise
        except BaseException as failure:
            self.failure = failure
            logger.exception("rowbell %r failed: its waits end", self._watcher)
            if not isinstance(failure, Exception):
                raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close from now on: waits end, and new ones are refused."""
        if self._loop is not None:
            opened.remove(self._loop, self._engine, self._watcher)
        why = f"it failed: {self.failure!r}" if self.failure else "it was closed during the wait"
        self._parts.board.fail_all(
            lambda: WatcherStateError(f"{self._watcher!r} cannot wait any more: {why}")
        )
        self._state.enter(WatcherState.CLOSED)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


async def _run(part: Reader | Subscription) -> None:
    """Run a part until it is stopped or cancelled. Any other end is a failure of the watcher."""
    with own_cancellations():
        await part.run()


opened: PerEngine[Any] = PerEngine()
"""The watcher that is open for each engine in each event loop."""
