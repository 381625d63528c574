"""The caller's session: whether it can wait, and how it gets the row afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, and_, inspect, select
from sqlalchemy.orm import Session, undefer

from rowbell.errors import NotFoundError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell.watch.request import WaitRequest

_waiting: WeakSet[Session] = WeakSet()


@contextmanager
def alone(session: Session) -> Generator[None]:
    """Let one wait at a time use the session.

    Raises:
        SessionStateError: Another wait uses it.
    """
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


async def refuse_frozen_snapshot(session: AsyncSession, bind: Engine | Connection) -> None:
    """Refuse a session whose open transaction would never show it a change.

    Raises:
        SessionStateError: It is REPEATABLE READ or SERIALIZABLE.
    """
    held = _held(session.sync_session, bind)
    if held is None or bind.dialect.name != "postgresql":
        return
    level = await session.run_sync(lambda _: held.get_isolation_level())
    if level in {"REPEATABLE READ", "SERIALIZABLE"}:
        raise SessionStateError(
            f"the session is in a {level} transaction, whose snapshot will never show the "
            "change: commit() or rollback() before the wait, or wait in another session"
        )


async def sees(session: AsyncSession, bind: Engine | Connection, request: WaitRequest) -> bool:
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


def adopt(session: Session, instance: Any) -> bool:
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


async def refresh(session: AsyncSession, request: WaitRequest) -> Any:
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
