"""RowWatcher: one board, one reader and one listener, started and stopped together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from rowbell._watch.arguments import FollowArguments, ManyArguments, WaitArguments, takes
from rowbell._watch.assembly import assemble
from rowbell._watch.changes import Changes
from rowbell._watch.connections import Connections, check_engine
from rowbell._watch.entrance import Entrance
from rowbell._watch.follow import Follow
from rowbell._watch.follow_many import FollowMany
from rowbell._watch.lifetime import Lifetime
from rowbell._watch.listen_connection import ListenConnection
from rowbell._watch.observers import Observers
from rowbell._watch.request import WaitRequest
from rowbell._watch.state import Mode, StateLog, WatcherState
from rowbell._watch.statistics import statistics_of
from rowbell._watch.streams import Streams
from rowbell._watch.timing import Timing, seconds_of
from rowbell._watch.waits import Waits
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell._mapping import SchemaMap
    from rowbell._watch.listen_connection import ListenConnect
    from rowbell._watch.statistics import WatcherStatistics
    from rowbell._watch.wire.transport import Notifies

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
        notifier: A relay, which listens for many processes: ``rowbell.relay.SocketNotifier(…)``.
            The watcher then needs no connection of its own.
        recheck: How often the row of an armed wait is read without a notification, in seconds
            (default 30), because some changes fire no trigger. ``None`` for never.
        timing: All other times.

    Attributes:
        engine: As given.
        waits: The waits that go through it. ``waits.on_end(observer)`` calls a function with the
            ``WaitEnd`` of each, and returns a function that ends this.

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
        mode: Mode | str = "auto",
        listen_url: str | URL | None = None,
        listen_connect: ListenConnect | None = None,
        notifier: Notifies | None = None,
        recheck: float | timedelta | None = 30.0,
        timing: Timing | None = None,
    ) -> None:
        check_engine(engine)
        if mode not in set(Mode):
            raise InvalidArgumentError("mode", mode, "'auto', 'listen' or 'poll'")
        every = None if recheck is None else seconds_of("recheck", recheck)
        self.engine = engine
        self._mode = Mode(mode)
        self._timing = timing or Timing()
        self._connections = Connections(engine)
        if notifier is not None and not (listen_url is None and listen_connect is None):
            expected = "None beside listen_url or listen_connect"
            raise InvalidArgumentError("notifier", notifier, expected)
        if notifier is not None and not hasattr(notifier, "link"):
            expected = "a notifier of rowbell.relay, for example SocketNotifier(path)"
            raise InvalidArgumentError("notifier", notifier, expected)
        listen_connection = ListenConnection(engine, listen_url, listen_connect, self._timing)
        self._observers = Observers(self.statistics)
        self._state = StateLog(engine, self._observers.changed)
        parts = assemble(
            self._connections,
            listen_connection if notifier is None else notifier,
            self._state,
            mode=self._mode,
            recheck=every,
            timing=self._timing,
            changed=self._observers.changed,
        )
        self._board, self._reader, self._notifier = parts.board, parts.reader, parts.notifier
        self._life = life = Lifetime(
            self, engine, parts, self._state, mode=self._mode, closing=self._timing.close
        )
        self._streams = Streams()
        self._entrance = Entrance(self._connections, self._mode, self._state, self._timing, life)
        self.waits: Waits = Waits(self._board, self._entrance, self._timing)

    # -- start and stop

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.reached(lambda now: now.state is not WatcherState.CONNECTING)
            self._life.refuse_failed_start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Begin to watch, without waiting for the first connection.

        Raises:
            WatcherStateError: It was started before, or another watcher of the engine is open
                in this event loop.
        """
        self._life.start()

    async def aclose(self) -> None:
        """Close the watcher: waits that have not ended raise. Calling it again does nothing."""
        self._streams.closing.set()
        await self._life.end()

    def close_streams(self) -> None:
        """End all iterations of ``follow``, ``follow_many`` and ``changes``; refuse new ones.

        Waits go on. It is for a process that is told to end, whose server waits until all
        responses have ended; ``rowbell.fastapi.lifespan`` calls it for you.
        """
        self._streams.close()

    @property
    def streams_closing(self) -> asyncio.Event:
        """An ``asyncio.Event``, set when ``close_streams()`` or ``aclose()`` is called."""
        return self._streams.closing

    # -- waits

    @takes(WaitArguments)
    async def wait_for_change(
        self, model: type[ModelT], pk_value: object, **arguments: Unpack[WaitArguments]
    ) -> ModelT:
        """Wait until a row changes; return it as an instance that belongs to no session.

        As ``wait_for_row_change``, but waits that end together may return the same instance.

        Args:
            model: The mapped class.
            pk_value: The primary key, in a form that ``Session.get`` takes.
            **arguments: How to wait: see ``WaitArguments``.

        Returns:
            The row after the change, detached.

        Raises:
            NotFoundError: The row does not exist, or was deleted; not with ``missing="wait"``.
            WaitTimeoutError: No change within ``timeout``.
            InvalidKeyError: The key is not a key of the model.
            InvalidColumnError: A column is not a column of the model.
            InvalidArgumentError: Another argument is invalid.
            UnmappedModelError: It is not a mapped class.
            TypeError: An argument has an unknown name.
            WatcherStateError: The watcher is not open, or belongs to another event loop.
            ListenError: ``mode="listen"``, and this wait can only be polled.
            DBAPIError: The row cannot be read, for a reason that does not pass.

        Example:
            .. code-block:: python

                order = await watcher.wait_for_change(Order, 7, until=Order.status == "paid")
        """
        request = WaitRequest.of(self.engine.dialect, self._schema_map, model, pk_value, arguments)
        instance: ModelT = await self.waits.wait(request, wants_instance=True)
        return instance

    @takes(FollowArguments)
    def follow(
        self, model: type[ModelT], pk_value: object, **arguments: Unpack[FollowArguments]
    ) -> Follow[ModelT]:
        """Follow a row: each state that differs from the last one.

        Args:
            model: The mapped class.
            pk_value: The primary key, in a form that ``Session.get`` takes.
            **arguments: How to follow: see ``FollowArguments``.

        Returns:
            An asynchronous iterator of instances that belong to no session; see ``Follow``.

        Raises:
            InvalidKeyError: The key is not a key of the model.
            InvalidColumnError: A column is not a column of the model.
            InvalidArgumentError: Another argument is invalid.
            UnmappedModelError: It is not a mapped class.
            TypeError: An argument has an unknown name.
            WatcherStateError: The watcher is not open, closes its streams, or belongs to another
                event loop.

        Example:
            .. code-block:: python

                async with watcher.follow(Order, 7, until=Order.status == "paid") as orders:
                    async for order in orders:
                        print(order.status)
        """
        self._life.check_open()
        make = WaitRequest.maker(
            self.engine.dialect, self._schema_map, model, arguments, known=FollowArguments
        )
        request = make(pk_value)
        return self._streams.begin(lambda: Follow(request, self._board, self._entrance))

    @takes(ManyArguments)
    def follow_many(
        self, model: type[ModelT], keys: Iterable[Any], **arguments: Unpack[ManyArguments]
    ) -> FollowMany[ModelT]:
        """Follow many rows of a class: first each row as it is, then whichever has changed.

        Args:
            model: The mapped class.
            keys: The primary keys, as ``Session.get`` takes them. Rows need not exist.
            **arguments: How to follow them: see ``ManyArguments``.

        Returns:
            An asynchronous iterator of keys and detached instances; see ``FollowMany``.

        Raises:
            InvalidKeyError: The key is not a key of the model.
            InvalidColumnError: A column is not a column of the model.
            InvalidArgumentError: Another argument is invalid.
            UnmappedModelError: It is not a mapped class.
            TypeError: An argument has an unknown name.
            WatcherStateError: The watcher is not open, or belongs to another event loop.

        Example:
            .. code-block:: python

                paid = Order.status == "paid"
                async with watcher.follow_many(Order, [7], until=paid) as rows:
                    async for key, order in rows:
                        print(key, order and order.status)
        """
        self._life.check_open()
        make = WaitRequest.maker(
            self.engine.dialect, self._schema_map, model, arguments, known=ManyArguments
        )
        has_until = arguments.get("until") is not None
        return self._streams.begin(
            lambda: FollowMany(make, keys, self._board, self._entrance, has_until=has_until)
        )

    def changes(self, model: type[Any], *, interval: float | timedelta = 5.0) -> Changes:
        """Say when a list of a model's rows must be loaded again, never which rows have changed.

        Args:
            model: The mapped class, with its subclasses. It must declare that inserts notify, with
                ``@watched(inserts=True)``; otherwise it is polled.
            interval: The shortest time between two answers, in seconds or as a ``timedelta``.

        Returns:
            An asynchronous iterator of ``Resync``; see ``Changes``.

        Raises:
            InvalidArgumentError, UnmappedModelError: An argument is invalid.
            WatcherStateError: The watcher is not open, or belongs to another event loop.

        Example:
            .. code-block:: python

                async with watcher.changes(Order) as changes:
                    await anext(changes)  # then load the list, and so on
        """
        self._life.check_open()
        request = WaitRequest.of_tables(self.engine.dialect, self._schema_map, model, interval)
        return self._streams.begin(lambda: Changes(request, self._board, self._entrance))

    @property
    def _schema_map(self) -> SchemaMap | None:
        return self.engine.get_execution_options().get("schema_translate_map")

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
            self._life.check_open()
            await self._observers.reached(condition)

    def __repr__(self) -> str:
        return f"<RowWatcher of {self.engine.url.database!r}, {self._state.state}>"
