"""wait_for_row_change: the wait with a session, which is what users call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import anyio
from sqlalchemy import Connection, Engine, and_, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, undefer

from rowbell.errors import NotFoundError, SessionStateError, UnsupportedEngineError
from rowbell.watch.connection import check_engine
from rowbell.watch.reader import finish, read
from rowbell.watch.request import WaitRequest
from rowbell.watch.rows import mapper_of
from rowbell.watch.watcher import RowWatcher, open_watcher

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

    from sqlalchemy import Dialect
    from sqlalchemy.orm import QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell.watch.watch import Until

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

    The session is not touched until the change has come: nothing is flushed or committed, and
    no connection is taken. The instance is the session's own; attributes with changes that
    were not flushed keep them, all others are refreshed.

    Args:
        session: The session that the returned instance belongs to.
        model: The mapped class.
        pk_value: The primary key, as ``Session.get`` takes it: a value, a tuple, a dict.
        columns: The columns to watch, as names or mapped attributes; all mapped columns by
            default. With ``until``, the columns whose change makes it be asked again.
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
        InvalidWaitError: ``interval``, ``timeout``, ``until`` or ``since`` is none.
        UnmappedModelError: ``model`` is not a mapped class.
        SessionStateError: The session waits already, or its transaction's isolation level
            would show it no change.
        UnsupportedEngineError: The session is not an asyncio one.
        ListenError: The open watcher has ``mode="listen"``, and this table cannot ring.

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
    options_in_force = {**bind.get_execution_options(), **_execution_options(session)}
    request = WaitRequest.of(
        bind.dialect,
        options_in_force.get("schema_translate_map"),
        model,
        pk_value,
        columns=columns,
        interval=interval,
        timeout=timeout,
        until=until,
        since=since,
        options=options,
    )
    with _alone(session.sync_session):
        await _refuse_frozen_snapshot(session, bind)
        try:
            if isinstance(bind, Connection) and bind.in_transaction():
                instance = await _wait_on_connection(session, bind, request)
            else:
                engine = AsyncEngine(bind.engine)
                check_engine(engine)
                async with _watcher(engine) as watcher:
                    instance = await watcher.wait(request, wants_instance=False)
        except NotFoundError as error:
            if error.deleted or not await _sees(session, bind, request):
                raise
            hint = (
                "this session sees it, but no other connection does: it is not committed yet, "
                "or row-level security hides it from the engine's other connections"
            )
            raise NotFoundError(model, error.key, hint=hint) from None
        if instance is None or not _adopt(session.sync_session, instance):
            instance = await _refresh(session, request)
        changed: ModelT = instance
        return changed


# -- the session


_waiting: WeakSet[Session] = WeakSet()


@contextmanager
def _alone(session: Session) -> Generator[None]:
    """Let one wait at a time use the session."""
    if session in _waiting:
        raise SessionStateError(
            "this session waits already, in another task, and a session serves one task at a "
            "time: give each wait a session, or use RowWatcher.wait_for_change, which takes none"
        )
    _waiting.add(session)
    try:
        yield
    finally:
        _waiting.discard(session)


def _execution_options(session: AsyncSession) -> Mapping[str, Any]:
    """The session's own execution options, which SQLAlchemy has since 2.1."""
    return getattr(session.sync_session, "execution_options", {})


def _held(session: Session, bind: Engine | Connection) -> Connection | None:
    """The connection that the session holds, if it does.

    ``Session.connection()`` would take one out of the pool, and nothing public tells
    beforehand, hence the private attribute.
    """
    if isinstance(bind, Connection):
        return bind if bind.in_transaction() else None
    transaction = session.get_transaction()
    held = getattr(transaction, "_connections", {}).get(bind)
    return held[0] if held else None


async def _refuse_frozen_snapshot(session: AsyncSession, bind: Engine | Connection) -> None:
    held = _held(session.sync_session, bind)
    if held is None or bind.dialect.name != "postgresql":
        return
    level = await session.run_sync(lambda _: held.get_isolation_level())
    if level in {"REPEATABLE READ", "SERIALIZABLE"}:
        raise SessionStateError(
            f"the session is in a {level} transaction, whose snapshot will never show the "
            "change: commit() or rollback() before the wait, or wait in another session"
        )


async def _sees(session: AsyncSession, bind: Engine | Connection, request: WaitRequest) -> bool:
    """Whether the session itself sees a row that was not found for it."""
    held = _held(session.sync_session, bind)
    if held is None or held is bind:
        return False
    statement, parameters = request.rows.read([request.key], request.rows.key_names, evidence=False)
    options = {"schema_translate_map": request.rows.schema_map or None}
    result = await session.run_sync(
        lambda _: held.execute(statement, parameters, execution_options=options).first()
    )
    return result is not None


def _adopt(session: Session, instance: Any) -> bool:
    """Make the instance that the wait was ended with the session's own, if it is free to be.

    It saves the session a SELECT. Not where the session has that row already, where other
    instances would come along, or where somebody listens to the session's own statements.
    """
    state = inspect(instance)
    if state.key in session.identity_map or session.dispatch.do_orm_execute:
        return False
    if any(name in state.dict for name in state.mapper.relationships.keys()):  # noqa: SIM118
        return False
    session.add(instance)
    return True


async def _refresh(session: AsyncSession, request: WaitRequest) -> Any:
    """The row as the session's instance, which keeps what the caller has changed in it.

    Expired and selected, not ``refresh()`` or ``populate_existing``: those flush, or overwrite
    what is pending in this instance and in those that are loaded along with it.
    """
    rows, sync = request.rows, session.sync_session
    name = rows.mapper.identity_key_from_primary_key(request.key)
    present = sync.identity_map.get(name)
    instance = present
    with session.no_autoflush:
        if present is None:
            instance = await session.get(rows.model, request.key, options=request.options)
            # The database may call keys equal that Python does not: then this one was there.
            if instance is not None and inspect(instance).key[1] != name[1]:
                present = instance
        if present is not None:
            entity, loaded = _expire(sync, present)
            key = zip(rows.mapper.primary_key, request.key, strict=True)
            statement = select(entity).where(and_(*(c == value for c, value in key)))
            result = await session.execute(statement.options(*request.options, *loaded))
            instance = result.unique().scalar_one_or_none()
    if instance is None:
        raise NotFoundError(rows.model, rows.describe(request.key), deleted=True)
    return instance


def _expire(session: Session, present: Any) -> tuple[type[Any], list[ORMOption]]:
    """Expire what the caller has not changed; how to load all of it again."""
    state, entity = inspect(present), type(present)
    stale = [
        name for name in state.dict if name in state.attrs and name not in state.committed_state
    ]
    session.expire(present, stale)
    properties = inspect(entity).column_attrs
    deferred = [name for name in stale if name in properties and properties[name].deferred]
    return entity, [undefer(getattr(entity, name)) for name in deferred]


# -- where the signals come from


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
        watch.baseline = await request.baseline(connection)
    while True:
        started = loop.time()
        [reading] = await read(connection, watch.rows, [watch], evidence=False)
        if watch.observe(reading) and reading is not None:
            await finish(connection, watch.rows, [(watch, reading)])
        if not watch.over and started >= watch.deadline:
            watch.time_out("on the connection that the session is bound to")
        if watch.over:
            return await watch.result
        await anyio.sleep(max(0.0, min(watch.interval, watch.deadline - loop.time())))


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
