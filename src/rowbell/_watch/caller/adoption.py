"""How the caller's session gets the row from the read that ended the wait, without a SELECT.

The session adds the instance that the read has loaded. If it has that row already, its instance
takes the values. This is only done where a SELECT in the session would have the same result:

- the session holds no connection: otherwise its transaction may have written its own version of
  the row, or the server may have ended it, which a SELECT notices;
- its next transaction is READ COMMITTED: a SELECT in any other takes the snapshot that all later
  statements use;
- no listener handles the session's statements, the transaction that begins, the session's new
  instances, or the loading of the class;
- the read has loaded all columns, and no related instance; none is linked or unlinked either.

Otherwise ``refresh`` selects the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import manager_of_class, set_committed_value

from rowbell._watch.caller.held_connection import held_connection

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import InstanceState, Session

_OF_NEW_INSTANCES: Final = (
    "before_attach",
    "after_attach",
    "loaded_as_persistent",
    "detached_to_persistent",
)

_WITHOUT_SNAPSHOT: Final = {"READ COMMITTED", "READ UNCOMMITTED", "AUTOCOMMIT"}
"""The isolation levels in which each statement has its own snapshot."""


def adopt(session: Session, bind: Engine | Connection, instance: Any) -> Any | None:
    """The session's instance with the values of another one, which the read has loaded.

    Args:
        session: The session.
        bind: What the session uses for the class.
        instance: The instance that the read has loaded. It belongs to no session.

    Returns:
        The session's instance; ``None`` if the session has to select the row.
    """
    state = inspect(instance)
    if (
        held_connection(session, bind) is not None
        or not _is_read_committed(bind)
        or session.dispatch.do_orm_execute
        or session.dispatch.after_begin
        or bind.dispatch.begin
        or any(name in state.dict for name in _relationships(state))
    ):
        return None
    present = session.identity_map.get(state.key)
    if present is None:
        if any(getattr(session.dispatch, event) for event in _OF_NEW_INSTANCES):
            return None
        session.add(instance)
        return instance
    if not _can_take(session, present, state):
        return None
    kept = expire_unchanged(session, present)
    session.add(present)  # begins the session's transaction, as a SELECT does
    for name in state.mapper.column_attrs.keys():  # noqa: SIM118
        if name not in kept:
            set_committed_value(present, name, state.dict[name])
    return present


def _is_read_committed(bind: Engine | Connection) -> bool:
    """Whether the statements of the next transaction have a snapshot each.

    No public attribute shows the ``isolation_level`` of ``create_engine()``.
    """
    dialect = bind.dialect
    level = (
        bind.get_execution_options().get("isolation_level")
        or getattr(dialect, "_on_connect_isolation_level", None)
        or dialect.default_isolation_level
    )
    return level in _WITHOUT_SNAPSHOT


def _can_take(session: Session, present: Any, loaded: InstanceState[Any]) -> bool:
    """Whether the session's instance may take the values of the loaded one."""
    dispatch: Any = manager_of_class(type(present)).dispatch
    state = inspect(present)
    return (
        type(present) is loaded.class_
        and not dispatch.load
        and not dispatch.refresh
        and present not in session.deleted
        and all(name in loaded.dict for name in loaded.mapper.column_attrs.keys())  # noqa: SIM118
        # add() would add what is linked, which a SELECT does not.
        and not any(state.attrs[name].history.has_changes() for name in _relationships(state))
    )


def _relationships(state: InstanceState[Any]) -> list[str]:
    return list(state.mapper.relationships.keys())


def expire_unchanged(session: Session, present: Any) -> set[str]:
    """Expire what the caller has not changed; return the attributes that keep their values."""
    state = inspect(present)
    kept = set(state.committed_state)
    if kept and state.mapper.version_id_col is not None:
        # With a new version, the caller's pending change would overwrite another's.
        version = state.mapper.get_property_by_column(state.mapper.version_id_col).key
        kept |= {version} & state.dict.keys()
    stale = [name for name in state.dict if name in state.attrs and name not in kept]
    if stale:  # an empty list would mean all attributes, also those with pending changes
        session.expire(present, stale)
    return kept
