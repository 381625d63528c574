"""Row locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import inspect, select, tuple_

from rowbell._cancellation import cancelled_once
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._locks.waiting import lock_wait
from rowbell._mapping import mapper_of
from rowbell._parameter_limits import longest_in_list
from rowbell._primary_key import Key, key_names, key_of
from rowbell._sessions.transaction import savepoint
from rowbell.errors import InvalidArgumentError, NotFoundError, SessionStateError, describe_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Mapper

M = TypeVar("M")

_NAMED: Final = 3
"""How many rows an error names."""


async def lock_rows(
    session: AsyncSession,
    model: type[M],
    pks: Iterable[object],
    *,
    nowait: bool = False,
    skip_locked: bool = False,
    timeout: LockTimeoutValue | None = None,
    read: bool = False,
    key_share: bool = False,
) -> list[M]:
    """Lock some rows until the transaction ends, and return their current state.

    The rows are locked in the order of their keys, so two callers cannot deadlock on them.
    Instances that the session already has are refreshed, because the rows may have changed
    during the wait for the lock.

    Args:
        session: The session. Pending changes are flushed first, if it has autoflush.
        model: A mapped class.
        pks: The keys of the rows, each in a form that ``Session.get`` takes; at most 32,767, or
            1,000 if the key is composite.
        nowait: Do not wait for a row that is locked; fail at once.
        skip_locked: Leave out rows that are locked, as the workers of a queue do. Rows that do
            not exist are left out too.
        timeout: The longest wait for one row: seconds, a ``timedelta``, or a text in
            PostgreSQL's form. ``None`` keeps the session's own ``lock_timeout``.
        read: Lock FOR SHARE instead of FOR UPDATE.
        key_share: Lock FOR NO KEY UPDATE (FOR KEY SHARE with ``read``). This does not block
            transactions that insert rows that refer to the locked rows.

    Returns:
        The instances, in the order of their keys in the database.

    Raises:
        UnmappedModelError: The model is not a mapped class; at the call.
        InvalidKeyError: A key does not fit the model's primary key; at the call.
        InvalidArgumentError: Arguments contradict each other, there are too many keys, or the
            timeout is invalid; at the call.
        NotFoundError: A row does not exist.
        LockTimeoutError: A lock was not acquired in time. The transaction stays usable.
        SessionStateError: One of the instances has changes that are not flushed and the
            session has no autoflush, or the session is in AUTOCOMMIT.

    Example:
        .. code-block:: python

            source, target = await rowbell.lock_rows(session, Account, [3, 7], timeout="2s")
    """
    mapper = mapper_of(model)
    keys = list(dict.fromkeys(key_of(mapper, pk, bounded=True) for pk in pks))
    if nowait and (skip_locked or timeout is not None):
        raise InvalidArgumentError("nowait", nowait, "without skip_locked and timeout")
    most = longest_in_list(len(mapper.primary_key))
    if len(keys) > most:
        raise InvalidArgumentError(
            "pks", len(keys), f"at most {most} keys (beyond that, lock the table)"
        )
    limit = None if timeout is None else LockTimeout.of(timeout)
    if not keys:
        return []
    if session.autoflush:
        # Not inside the SAVEPOINT: its rollback would undo changes that the session has flushed.
        await cancelled_once(session.flush())
    else:
        _refuse_pending(session, mapper, keys)
    statement = (
        select(model)
        .where(tuple_(*mapper.primary_key).in_(keys))
        .order_by(*mapper.primary_key)
        .with_for_update(
            nowait=nowait,
            skip_locked=skip_locked,
            read=read,
            key_share=key_share,
            of=list(mapper.tables),  # not the tables that are joined to them, as by an outer join
        )
        .execution_options(populate_existing=True)
    )
    bind = session.sync_session.get_bind(mapper)
    mode = _mode(read=read, key_share=key_share)
    async with (
        savepoint(session, bind) as connection,
        lock_wait(connection, limit, _names(mapper, keys), mode),
    ):
        with session.no_autoflush:
            result = await cancelled_once(session.scalars(statement))
        instances = list(result.unique())
    if not skip_locked and len(instances) < len(keys):
        found = {inspect(instance).identity for instance in instances}
        missing = next(key for key in keys if key not in found)
        raise NotFoundError(model, dict(zip(key_names(mapper), missing, strict=True)))
    return instances


def _mode(*, read: bool, key_share: bool) -> str:
    if read:
        return "FOR KEY SHARE" if key_share else "FOR SHARE"
    return "FOR NO KEY UPDATE" if key_share else "FOR UPDATE"


def _names(mapper: Mapper[Any], keys: list[Key]) -> list[str]:
    names = [_named(mapper, key) for key in keys[:_NAMED]]
    return names if len(keys) <= _NAMED else [*names, f"and {len(keys) - _NAMED} more"]


def _named(mapper: Mapper[Any], key: Key) -> str:
    return describe_row(mapper.class_, dict(zip(key_names(mapper), key, strict=True)))


def _refuse_pending(session: AsyncSession, mapper: Mapper[Any], keys: list[Key]) -> None:
    """Refuse if the refresh would overwrite changes of the caller."""
    for instance in session.dirty:
        state = inspect(instance)
        if state.mapper.isa(mapper) and state.identity in keys:
            raise SessionStateError(
                f"{_named(mapper, state.identity)} has changes that are not flushed, which the "
                "lock's fresh read would overwrite: await session.flush() first"
            )
