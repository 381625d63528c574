"""How the caller's session gets the row from the read that ended the wait, without a SELECT.

The session adds the instance that the read has loaded. If it has that row already, its instance
takes the values. This is only done where a SELECT in the session would have the same result:

- no listener handles the session's statements, the transaction that begins, the session's new
  instances, or the loading of the class;
- a row that the session has already is only taken over if the session holds no connection:
  otherwise its transaction may have written its own version of the row, or may have been ended by
  the server, which a SELECT notices;
- the read has loaded all columns, and no related instance.

Otherwise ``refresh`` selects the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import manager_of_class, set_committed_value

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, Session

_OF_NEW_INSTANCES: Final = (
    "before_attach",
    "after_attach",
    "loaded_as_persistent",
    "detached_to_persistent",
)


def adopt(session: Session, instance: Any, *, begins: bool) -> Any | None:
    """The session's instance with the values of another one, which the read has loaded.

    Args:
        session: The session.
        instance: The instance that the read has loaded. It belongs to no session.
        begins: Whether the session holds no connection, so that its transaction begins later.

    Returns:
        The session's instance; ``None`` if the session has to select the row.
    """
    state = inspect(instance)
    if session.dispatch.do_orm_execute or (begins and session.dispatch.after_begin):
        return None
    if any(name in state.dict for name in state.mapper.relationships.keys()):  # noqa: SIM118
        return None
    present = session.identity_map.get(state.key)
    if present is None:
        if any(getattr(session.dispatch, event) for event in _OF_NEW_INSTANCES):
            return None
        session.add(instance)
        return instance
    if not begins or not _can_take(session, present, state):
        return None
    kept = expire_unchanged(session, present)
    for name in state.mapper.column_attrs.keys():  # noqa: SIM118
        if name not in kept:
            set_committed_value(present, name, state.dict[name])
    session.add(present)  # begins the session's transaction, as a SELECT does
    return present


def _can_take(session: Session, present: Any, loaded: InstanceState[Any]) -> bool:
    """Whether the session's instance may take the values of the loaded one."""
    dispatch: Any = manager_of_class(type(present)).dispatch
    return (
        type(present) is loaded.class_
        and not dispatch.load
        and not dispatch.refresh
        and present not in session.deleted
        and all(name in loaded.dict for name in loaded.mapper.column_attrs.keys())  # noqa: SIM118
    )


def expire_unchanged(session: Session, present: Any) -> set[str]:
    """Expire what the caller has not changed; return the attributes that keep their values."""
    state = inspect(present)
    kept = set(state.committed_state)
    if kept and state.mapper.version_id_col is not None:
        # With a new version, the caller's pending change would overwrite another's.
        kept.add(state.mapper.get_property_by_column(state.mapper.version_id_col).key)
    stale = [name for name in state.dict if name in state.attrs and name not in kept]
    if stale:  # an empty list would mean all attributes, also those with pending changes
        session.expire(present, stale)
    return kept
