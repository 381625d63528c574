"""wait_for_row_change: the wait with a session, which is what users call."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import anyio
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session

from rowbell.cleanup import cancelled_once
from rowbell.errors import NotFoundError, UnsupportedEngineError
from rowbell.mapping import mapper_of, schema_map_of
from rowbell.watch.batch import finish, read
from rowbell.watch.connection import check_engine
from rowbell.watch.request import WaitRequest
from rowbell.watch.session import (
    adopt,
    alone,
    refresh,
    refuse_frozen_snapshot,
    sees,
)
from rowbell.watch.watcher import RowWatcher, open_watcher

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from sqlalchemy import Dialect
    from sqlalchemy.orm import QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell.watch.watch import Until, Watch

ModelT = TypeVar("ModelT")


async def wait_for_row_change(
    session: AsyncSession | async_scoped_session[Any],
    model: type[ModelT],
    pk_value: object,
    *,
    columns: Sequence[str | QueryableAttribute[Any]] | None = None,
    interval: float = 0.5,
    timeout: float | None = None,  # noqa: ASYNC109  # the contract's name, and kept to the end
    until: Until | None = None,
    since: ModelT | Mapping[str, Any] | None = None,
    options: Sequence[ORMOption] = (),
) -> ModelT:
    """Wait until a row differs from what it was when the call began; returns it refreshed.

    The wait is woken by PostgreSQL where the table has its triggers and LISTEN works, and polls
    every ``interval`` where not; what it returns is the same. It uses the engine's open
    ``RowWatcher``; where there is none it opens one, which waits that overlap share, and
    closes it again. What other transactions commit counts; what this session has not committed
    does not. A change there and back between two reads is not seen: watch a version column.

    Until the change has come nothing is flushed, committed or loaded in the session, and it
    takes no connection; one that it holds already is asked for its isolation level. The
    instance is the session's own; attributes with changes that were not flushed keep them, all
    others are refreshed.

    Args:
        session: The session that the returned instance belongs to.
        model: The mapped class.
        pk_value: The primary key, as ``Session.get`` takes it: a value, a tuple, a dict.
        columns: The columns to watch, as names or mapped attributes; by default those that the
            model declares (``@watched(columns=…)``), or else all mapped columns. With ``until``,
            the columns whose change makes it be asked again.
        interval: The polling interval while nothing rings, in seconds (default 0.5).
        timeout: How long to wait, in seconds of wall time; ``None`` (the default) for ever.
        until: End the wait once this holds instead of at any change, at once if it holds
            already: a function of an instance (loaded with ``options``, belonging to no
            session), or an SQL expression on the model's columns.
        since: What the caller last saw, as an instance or as values by attribute: a row that
            differs from it already ends the wait at once.
        options: Loader options for the returned instance.

    Returns:
        The instance, refreshed.

    Raises:
        NotFoundError: The row does not exist ("… not found"), or was deleted meanwhile
            ("… was deleted").
        WaitTimeoutError: No change within ``timeout``; a ``TimeoutError``.
        InvalidKeyError: ``pk_value`` is no key of the model.
        InvalidColumnError: One of ``columns``, or of ``until``, is no column of the model.
        InvalidArgumentError: ``interval``, ``timeout``, ``until`` or ``since`` is none.
        UnmappedModelError: ``model`` is not a mapped class.
        SessionStateError: The session waits already, or its transaction's isolation level
            would show it no change.
        UnsupportedEngineError: The session is not an asyncio one, or its engine gives all
            sessions one connection.
        ListenError: The open watcher has ``mode="listen"``, and this table cannot ring.
        DBAPIError: The row cannot be read, for a reason that does not pass: a column is gone, a
            right is missing. What passes is waited out within ``timeout``.

    Example:
        .. code-block:: python

            order = await rowbell.wait_for_row_change(session, Order, 7, timeout=30)
    """
    if isinstance(session, async_scoped_session):
        session = session()
    if not isinstance(session, AsyncSession):
        kind = type(session).__name__
        raise UnsupportedEngineError(f"waiting takes an AsyncSession, not a {kind}")
    bind = session.sync_session.get_bind(mapper_of(model))
    request = WaitRequest.of(
        bind.dialect,
        schema_map_of(session.sync_session, bind),
        model,
        pk_value,
        columns=columns,
        interval=interval,
        timeout=timeout,
        until=until,
        since=since,
        options=options,
    )
    begun = asyncio.get_running_loop().time()
    with alone(session.sync_session):
        await refuse_frozen_snapshot(session, bind)
        try:
            if isinstance(bind, Connection) and bind.in_transaction():
                instance = await _wait_on_connection(session, bind, request)
            else:
                engine = AsyncEngine(bind.engine)
                check_engine(engine)
                async with _watcher(engine) as watcher:
                    instance = await watcher.wait(request, wants_instance=False)
        except NotFoundError as error:
            if error.deleted or not await sees(session, bind, request):
                raise
            hint = (
                "this session sees it, but no other connection does: it is not committed yet, "
                "or row-level security hides it from the engine's other connections"
            )
            raise NotFoundError(model, error.key, hint=hint) from None
        if instance is None or not adopt(session.sync_session, instance):
            deadline = math.inf if timeout is None else begun + timeout
            instance = await refresh(session, request, deadline)
        changed: ModelT = instance
        return changed


async def _wait_on_connection(session: AsyncSession, bind: Connection, request: WaitRequest) -> Any:
    """Wait on the connection that the session is bound to, inside its transaction.

    Nobody else sees what is written there, so there the row is polled.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connection = session.bind
    if not isinstance(connection, AsyncConnection) or connection.sync_connection is not bind:
        connection = AsyncConnection(AsyncEngine(bind.engine), bind)
    watch = request.watch(begun, wants_instance=False)
    if request.since:
        known = request.known_baseline
        if known is None:
            known = await connection.run_sync(request.baseline)
        watch.baseline = known
    while True:
        started = loop.time()
        await cancelled_once(connection.run_sync(_look, watch))
        if not watch.over and started >= watch.deadline:
            watch.time_out("on the connection that the session is bound to")
        if watch.over:
            return await watch.result
        await anyio.sleep(max(0.0, min(watch.interval, watch.deadline - loop.time())))


def _look(connection: Connection, watch: Watch) -> None:
    [(_, reading)] = read(connection, watch.rows, [watch], evidence=False)
    if watch.observe(reading) and reading is not None:
        finish(connection, watch.rows, [(watch, reading)])


@dataclass
class _Shared:
    watcher: RowWatcher
    users: int = 0


_shared: WeakKeyDictionary[AbstractEventLoop, dict[Dialect, _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def _watcher(engine: AsyncEngine) -> AsyncGenerator[RowWatcher]:
    """The engine's open watcher, or one that lasts as long as the waits that share it."""
    here = _shared.setdefault(asyncio.get_running_loop(), {})
    shared, opened = here.get(engine.dialect), open_watcher(engine)
    if opened is not None and (shared is None or opened is not shared.watcher):
        yield opened
        return
    if shared is None or opened is None:
        shared = here[engine.dialect] = _Shared(RowWatcher(engine))
        shared.watcher.start()
    shared.users += 1
    try:
        yield shared.watcher
    finally:
        shared.users -= 1
        if not shared.users:
            if here.get(engine.dialect) is shared:
                del here[engine.dialect]
            await shared.watcher.aclose()
