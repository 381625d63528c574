"""Why a server, a connection or an error means that nothing can notify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from rowbell._sqlstate import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_SCHEMA_NAME,
    INVALID_SQL_STATEMENT_NAME,
    READ_ONLY_TRANSACTION,
    UNDEFINED_FUNCTION,
    UNDEFINED_TABLE,
    sqlstate_of,
)
from rowbell._watch.database.schema import SCHEMA_VERSION
from rowbell._watch.failures import UnreachableError, is_passing
from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from rowbell._watch.database.answers import Heartbeat, Server
    from rowbell._watch.database.row_set import RowSet

_REASONS: Final = {
    READ_ONLY_TRANSACTION: Reason.IN_RECOVERY,  # the answer of a standby to LISTEN and NOTIFY
    INSUFFICIENT_PRIVILEGE: Reason.NOT_PERMITTED,
    # A pooler has given the session to another server process.
    INVALID_SQL_STATEMENT_NAME: Reason.NOT_DELIVERED,
    # Parts of the schema are missing.
    UNDEFINED_FUNCTION: Reason.SCHEMA_OUTDATED,
    UNDEFINED_TABLE: Reason.SCHEMA_OUTDATED,
    INVALID_SCHEMA_NAME: Reason.SCHEMA_OUTDATED,
}


def refuse_unsuitable(server: Server) -> None:
    """Refuse a standby, and a database whose schema ``rowbell`` this library cannot work with.

    Raises:
        CannotNotifyError: It is one of these.
    """
    if server.in_recovery:
        raise CannotNotifyError(Reason.IN_RECOVERY, "the server is a standby")
    if server.schema is None:
        why = f"database {server.database!r} has no schema rowbell, so no table has triggers"
        raise CannotNotifyError(Reason.NOT_INSTALLED, why)
    version, compatible_with = server.schema
    if version < SCHEMA_VERSION:
        why = f"the schema rowbell has version {version}, this library needs {SCHEMA_VERSION}"
        raise CannotNotifyError(Reason.SCHEMA_OUTDATED, why)
    if compatible_with > SCHEMA_VERSION:
        why = f"the schema rowbell has version {version}, for libraries from {compatible_with} on"
        raise CannotNotifyError(Reason.SCHEMA_NEWER, why)


def refuse_other_session(answer: Heartbeat, backend_pid: int, registered: RowSet) -> None:
    """Refuse a heartbeat that is not what this session of the server must answer.

    Args:
        answer: The heartbeat.
        backend_pid: The server process of the session.
        registered: What the session has registered.

    Raises:
        CannotNotifyError: The session is another one, or on a standby, or registrations were
            deleted.
    """
    if answer.in_recovery:
        raise CannotNotifyError(Reason.IN_RECOVERY, "the server has become a standby")
    if answer.backend_pid != backend_pid:
        why = "the connection has moved to another server process, which does not listen"
        raise CannotNotifyError(Reason.NOT_DELIVERED, why)
    if not answer.listens:
        why = "notifications go to another channel than the one that this session listens on"
        raise CannotNotifyError(Reason.CONNECTION_LOST, why)
    if (answer.registered, answer.checksum) != (len(registered), registered.checksum):
        why = f"{answer.registered} of {len(registered)} registrations are left: some were deleted"
        raise CannotNotifyError(Reason.CONNECTION_LOST, why)


def reason_of(error: Exception) -> Reason:
    """The reason that an error means, before or during a session."""
    if isinstance(error, UnreachableError):
        return Reason.CONNECTION_LOST if error.passes else Reason.CANNOT_LISTEN
    passes = Reason.CONNECTION_LOST if is_passing(error) else Reason.CANNOT_LISTEN
    return _REASONS.get(sqlstate_of(error), passes)


def described(error: Exception) -> str:
    """The driver's own error, which SQLAlchemy's error contains."""
    cause: BaseException = error.reason if isinstance(error, UnreachableError) else error
    if isinstance(cause, DBAPIError) and cause.orig:
        cause = cause.orig.__cause__ or cause.orig
    return f"{type(cause).__name__}: {cause}".rstrip(": ")
