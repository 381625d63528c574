"""wait_for_row_change: the wait with a session, which is what users call."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack
from weakref import WeakKeyDictionary

import anyio
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session

from rowbell._cancellation import finished
from rowbell._mapping import mapper_of, schema_map_of
from rowbell._sessions.transaction import refuse_unbegun
from rowbell._sqlstate import IN_FAILED_TRANSACTION, has_sqlstate
from rowbell._watch.arguments import WaitArguments, takes_wait_arguments
from rowbell._watch.board.watch import Watch
from rowbell._watch.caller.held_connection import held_connection, outlook_of
from rowbell._watch.caller.refresh import adopt, refresh
from rowbell._watch.caller.savepoint import in_savepoint
from rowbell._watch.caller.waiting_session import alone, connection_kept, sees
from rowbell._watch.connections import check_engine
from rowbell._watch.event_loop import running_loop
from rowbell._watch.reading.batch import finish, read
from rowbell._watch.reasons import Reason
from rowbell._watch.request import WaitRequest
from rowbell._watch.state import warn_once
from rowbell._watch.watcher import RowWatcher, open_watcher
from rowbell.errors import NotFoundError, UnsupportedEngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Connection


ModelT = TypeVar("ModelT")


@takes_wait_arguments
async def wait_for_row_change(
    session: AsyncSession | async_scoped_session[Any],
    model: type[ModelT],
    pk_value: object,
    **arguments: Unpack[WaitArguments],
) -> ModelT:
    """Wait until a row differs from what it was when the call began; returns it refreshed.

    The wait is woken by PostgreSQL where the table has its triggers and LISTEN works, and polls
    every ``interval`` where not; what it returns is the same. It uses the engine's open
    ``RowWatcher``; where there is none it opens one, which waits that overlap share, and
    closes it again. What other transactions commit counts; what this session has not committed
    does not. A change there and back between two reads is not seen: watch a version column.

    Until the change has come nothing is flushed, committed or loaded in the session, and it
    takes no connection; one that it holds already is asked how it sees the table, and the
    wait polls on it where other connections may see other rows. The
    instance is the session's own; attributes with changes that were not flushed keep them, all
    others are refreshed.

    Args:
        session: The session that the returned instance belongs to.
        model: The mapped class.
        pk_value: The primary key, as ``Session.get`` takes it: a value, a tuple, a dict.
        **arguments: ``columns``, ``interval`` (default 0.5 s), ``timeout`` (default: for ever),
            ``until``, ``since``, ``options``: see ``WaitArguments``.

    Returns:
        The instance, refreshed.

    Raises:
        NotFoundError: The row does not exist ("… not found"), or was deleted meanwhile
            ("… was deleted").
        WaitTimeoutError: No change within ``timeout``; a ``TimeoutError``.
        InvalidKeyError: ``pk_value`` is no key of the model.
        InvalidColumnError: One of ``columns``, or of ``until``, is no column of the model.
        InvalidArgumentError: ``interval``, ``timeout``, ``until`` or ``since`` is invalid.
        TypeError: ``columns`` is a single name, or an argument has an unknown name.
        UnmappedModelError: ``model`` is not a mapped class.
        SessionStateError: The session waits already; its transaction would show it no change
            (REPEATABLE READ, SERIALIZABLE, or one that has failed); it is in none and has
            ``autobegin=False``; its row is in a temporary table; or the server has ended its
            idle transaction meanwhile.
        WatcherStateError: The watcher was closed meanwhile, or no event loop of asyncio runs.
        UnsupportedEngineError: The session is not an asyncio one; or its engine gives all
            sessions one connection, or has ``?sslmode=`` for asyncpg.
        ListenError: The open watcher has ``mode="listen"``, and this wait can only be polled.
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
    begun = running_loop().time()
    bind = session.sync_session.get_bind(mapper_of(model))
    held = held_connection(session.sync_session, bind)
    refuse_unbegun(session)

    request = WaitRequest.of(
        bind.dialect,
        schema_map_of(session.sync_session, bind if held is None else held),
        model,
        pk_value,
        arguments,
    )
    with alone(session.sync_session):
        outlook = await outlook_of(session, held, request.rows)
        try:
            if held is not None and (held is bind or outlook.differs):
                async with connection_kept(session, held, outlook.idle_limit):
                    instance = await _wait_on_connection(session, held, request, outlook.differs)
            else:
                engine = AsyncEngine(bind.engine)
                check_engine(engine)
                async with _lent_watcher(engine) as watcher:
                    instance = await watcher.wait(request, wants_instance=False)
        except NotFoundError as error:
            if error.deleted or held is None or held is bind:
                raise
            if not await sees(session, held, request):
                raise
            hint = (
                "this session sees it, but no other connection does: it is not committed yet, "
                "or row-level security hides it from the engine's other connections"
            )
            raise NotFoundError(model, error.key, hint=hint) from None
        if instance is None or not adopt(session.sync_session, instance, begins=held is None):
            deadline = math.inf if request.timeout is None else begun + request.timeout
            async with connection_kept(session, held, outlook.idle_limit):
                instance = await refresh(session, request, deadline)
        changed: ModelT = instance
        return changed


async def _wait_on_connection(
    session: AsyncSession, held: Connection, request: WaitRequest, differs: str
) -> Any:
    """Wait on the connection that the session is bound to or holds, inside its transaction.

    Other connections do not see what is written there, so there the row is polled.
    """
    if differs:
        warn_once(
            held.dialect,
            Reason.OWN_CONNECTION,
            f"a session waits for {request.rows.model.__name__} on its own connection: {differs}",
        )
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connection = session.bind
    if not isinstance(connection, AsyncConnection) or connection.sync_connection is not held:
        connection = AsyncConnection(AsyncEngine(held.engine), held)
    if request.again is not None and request.rows.subclass(request.key) is not None:
        request = await finished(connection.run_sync(_narrowed, request))
    watch = Watch(
        request,
        deadline=math.inf if request.timeout is None else begun + request.timeout,
        result=loop.create_future(),
    )
    failed_since = math.inf
    while True:
        started = loop.time()
        try:
            await finished(connection.run_sync(_look, watch))
            failed_since = math.inf
        except DBAPIError as error:
            # A statement of the caller has failed; the caller is about to roll back.
            failed_since = min(failed_since, started)
            if not has_sqlstate(error, IN_FAILED_TRANSACTION) or started > failed_since + _UNDO:
                raise
        if not watch.is_over and started >= watch.deadline:
            watch.time_out("on the session's own connection")
        if watch.is_over:
            return await watch.result
        await anyio.sleep(max(0.0, min(request.interval, watch.deadline - loop.time())))


_UNDO: Final = 1.0
"""How long, in seconds, others who use the connection may take to undo what has failed."""


def _narrowed(connection: Connection, request: WaitRequest) -> WaitRequest:
    with in_savepoint(connection) if request.rows.on_postgresql else nullcontext():
        return request.narrowed(connection)


def _look(connection: Connection, watch: Watch) -> None:
    with in_savepoint(connection) if watch.request.rows.on_postgresql else nullcontext():
        [(_, reading)] = read(connection, watch.request.rows, [watch], evidence=False)
        if watch.observe(reading) and reading is not None:
            finish(connection, watch.request.rows, [(watch, reading)])
        else:
            watch.ask_again()


@asynccontextmanager
async def _lent_watcher(engine: AsyncEngine) -> AsyncGenerator[RowWatcher]:
    """The engine's open watcher; or a new one, which the last of its borrowers closes."""
    watcher = open_watcher(engine)
    if watcher is None:
        watcher = RowWatcher(engine)
        watcher.start()
        _borrowers[watcher] = 0
    if watcher not in _borrowers:  # a type of the application may raise anything
        yield watcher
        return
    _borrowers[watcher] += 1
    try:
        yield watcher
    finally:
        _borrowers[watcher] -= 1
        if not _borrowers[watcher]:
            del _borrowers[watcher]
            await watcher.aclose()


_borrowers: WeakKeyDictionary[RowWatcher, int] = WeakKeyDictionary()
"""Those of the open watchers that no application has opened, and how many waits use each."""
