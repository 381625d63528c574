"""The function ``wait_for_row_change``: a wait with a session."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session

from rowbell._mapping import mapper_of, schema_map_of
from rowbell._sessions.transaction import refuse_unbegun
from rowbell._watch.arguments import WaitArguments, takes
from rowbell._watch.caller.adoption import adopt
from rowbell._watch.caller.held_connection import Outlook, held_connection, outlook_of
from rowbell._watch.caller.own_connection import wait_on_connection
from rowbell._watch.caller.refresh import refresh
from rowbell._watch.caller.waiting_session import alone, connection_kept, sees
from rowbell._watch.connections import check_engine
from rowbell._watch.event_loop import running_loop
from rowbell._watch.lifetime import opened
from rowbell._watch.request import WaitRequest
from rowbell._watch.watcher import RowWatcher
from rowbell.errors import NotFoundError, UnsupportedEngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Connection, Engine


ModelT = TypeVar("ModelT")


@takes(WaitArguments)
async def wait_for_row_change(
    session: AsyncSession | async_scoped_session[Any],
    model: type[ModelT],
    pk_value: object,
    **arguments: Unpack[WaitArguments],
) -> ModelT:
    """Wait until a row differs from what it was when the call began; return it refreshed.

    A notification wakes the wait if the table has its triggers and LISTEN works. Otherwise the
    wait polls every ``interval``; the result is the same. It uses the engine's open
    ``RowWatcher``. If there is none, it opens one, which overlapping waits share, and closes it
    afterwards. Changes that other transactions commit end the wait; changes that this session
    has not committed do not. A change that is undone between two reads is not seen: watch a
    version column to see it.

    Until the change, nothing is flushed, committed or loaded in the session, and the session
    takes no connection. If it already holds one, this connection is queried about the table. If
    other connections may show other rows, the wait polls on this connection. The instance
    belongs to the session. Its attributes with changes that are not flushed keep these changes;
    all others are refreshed.

    Args:
        session: The session that the returned instance belongs to.
        model: The mapped class.
        pk_value: The primary key, in a form that ``Session.get`` takes: a value, a tuple, a dict.
        **arguments: ``columns``, ``interval`` (default 0.5 s), ``timeout`` (default: no limit),
            ``until``, ``since``, ``missing``, ``options``: see ``WaitArguments``.

    Returns:
        The instance, refreshed.

    Raises:
        NotFoundError: The row does not exist ("… not found"), or was deleted meanwhile
            ("… was deleted"). Not with ``missing="wait"``.
        WaitTimeoutError: No change within ``timeout``. It is a ``TimeoutError``.
        InvalidKeyError: ``pk_value`` is not a key of the model.
        InvalidColumnError: A column in ``columns`` or ``until`` is not a column of the model.
        InvalidArgumentError: ``interval``, ``timeout``, ``until``, ``since`` or ``missing`` is
            invalid.
        TypeError: ``columns`` is a single name, or an argument has an unknown name.
        UnmappedModelError: ``model`` is not a mapped class.
        SessionStateError: Another wait uses the session; its transaction would show no change
            (REPEATABLE READ, SERIALIZABLE, or a failed transaction); it has ``autobegin=False``
            and is in no transaction; the table is temporary; or the server has ended the
            session's idle transaction meanwhile.
        WatcherStateError: The watcher was closed meanwhile, or no asyncio event loop is running.
        UnsupportedEngineError: The session is not an ``AsyncSession``, its engine has one
            connection for all sessions, or the URL has ``?sslmode=`` for asyncpg.
        ListenError: The open watcher has ``mode="listen"``, and this wait can only be polled.
        DBAPIError: The row cannot be read, for a reason that does not pass, such as a dropped
            column or a missing privilege. After an error that passes, reading is repeated
            within ``timeout``.

    Example:
        .. code-block:: python

            order = await rowbell.wait_for_row_change(session, Order, 7, timeout=30)
    """
    if isinstance(session, async_scoped_session):
        session = session()
    if not isinstance(session, AsyncSession):
        kind = type(session).__name__
        raise UnsupportedEngineError(f"a wait needs an AsyncSession, not a {kind}")
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
        while True:
            try:
                changed: ModelT = await _changed(session, request, bind, held, outlook, begun=begun)
            except NotFoundError as error:
                # It has appeared, and was deleted before the session has selected it.
                if not (error.deleted and request.waits_for_missing):
                    raise
                now = running_loop().time()
                request, begun = request.without_the_row(now - begun), now
            else:
                return changed


async def _changed(
    session: AsyncSession,
    request: WaitRequest,
    bind: Engine | Connection,
    held: Connection | None,
    outlook: Outlook,
    *,
    begun: float,
) -> Any:
    """The row after the change, as the session's instance."""
    try:
        if held is not None and (held is bind or outlook.differs):
            async with connection_kept(session, held, outlook.idle_limit):
                instance = await wait_on_connection(session, held, request, outlook.differs)
        else:
            engine = AsyncEngine(bind.engine)
            check_engine(engine)
            async with _lent_watcher(engine) as watcher:
                instance = await watcher.waits.wait(request, wants_instance=False)
    except NotFoundError as error:
        if error.deleted or held is None or held is bind:
            raise
        if not await sees(session, held, request):
            raise
        hint = (
            "this session sees it, but no other connection does: it is not committed yet, "
            "or row-level security hides it from the engine's other connections"
        )
        raise NotFoundError(request.rows.model, error.key, hint=hint) from None
    if instance is not None:
        instance = adopt(session.sync_session, bind, instance)
    if instance is None:
        async with connection_kept(session, held, outlook.idle_limit):
            instance = await refresh(session, request, request.deadline(begun))
    return instance


@asynccontextmanager
async def _lent_watcher(engine: AsyncEngine) -> AsyncGenerator[RowWatcher]:
    """The engine's open watcher, or a new one, which its last borrower closes."""
    watcher: RowWatcher | None = opened.get(engine)
    if watcher is None:
        watcher = RowWatcher(engine)
        watcher.start()
        _borrowers[watcher] = 0
    if watcher not in _borrowers:  # the application has opened it
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
"""The watchers that were opened here, and how many waits use each."""
