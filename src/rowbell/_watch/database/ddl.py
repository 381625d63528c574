"""Executes rowbell's DDL: with a lock timeout, one installation at a time, and a fixed search_path.

PostgreSQL looks up names of functions and operators in the session's ``search_path`` too. A role
that may create objects in one of those schemas could make the installer run its code, for example
with an operator that fits the types of a comparison better than PostgreSQL's own. So all queries
and all DDL run with the ``search_path`` ``pg_catalog, pg_temp``, and all names of the user's
objects include their schema.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from rowbell._identifiers import quote_literal, verbatim
from rowbell._sqlstate import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, has_sqlstate
from rowbell.errors import LockTimeoutError, TriggerError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from rowbell._lock_timeout import LockTimeout

_PINNED: Final = "pg_catalog, pg_temp"
_READ: Final = text("SELECT pg_catalog.current_setting('search_path')")
_SET: Final = text(
    "SELECT pg_catalog.set_config('search_path', CAST(:path AS pg_catalog.text), :is_local)"
)
_ONE_AT_A_TIME: Final = (
    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('rowbell', 0))"
)


def kept(name: str) -> str:
    """The statement that saves a setting for ``restored``, for ``--sql``."""
    value = f"pg_catalog.current_setting('{name}')"
    return f"SELECT pg_catalog.set_config('rowbell.{name}', {value}, true)"


def restored(name: str) -> str:
    """The statement that restores a setting that ``kept`` has saved."""
    value = f"pg_catalog.current_setting('rowbell.{name}')"
    return f"SELECT pg_catalog.set_config('{name}', {value}, true)"


def limited(statements: Iterable[str], timeout: LockTimeout) -> list[str]:
    """Statements for ``--sql``, one installation at a time and with a lock timeout."""
    limit = f"SELECT pg_catalog.set_config('lock_timeout', '{timeout}', true)"
    before = [kept("lock_timeout"), limit, _ONE_AT_A_TIME]
    return [*before, *statements, restored("lock_timeout")]


def pinned(statements: Iterable[str]) -> list[str]:
    """Statements of one transaction, for ``--sql``, with the fixed ``search_path``."""
    pin = f"SELECT pg_catalog.set_config('search_path', '{_PINNED}', true)"
    return [kept("search_path"), pin, *statements, restored("search_path")]


@contextmanager
def in_terms_of_pg_catalog(connection: Connection) -> Generator[None]:
    """Set the ``search_path`` of the block to ``pg_catalog``. Other names need their schema."""
    before = connection.scalar(_READ)
    connection.execute(_SET, {"path": _PINNED, "is_local": True})
    is_local = connection.scalar(_READ) == _PINNED  # not in AUTOCOMMIT
    if not is_local:
        connection.execute(_SET, {"path": _PINNED, "is_local": False})
    try:
        yield
    except BaseException:
        with suppress(SQLAlchemyError):  # in a failed transaction, the rollback restores it
            connection.execute(_SET, {"path": before, "is_local": is_local})
        raise
    connection.execute(_SET, {"path": before, "is_local": is_local})


@contextmanager
def installing(
    connection: Connection, table: str, timeout: LockTimeout, mode: str = "SHARE ROW EXCLUSIVE"
) -> Generator[None]:
    """Run the DDL of the block with a lock timeout, one installation at a time.

    Args:
        connection: The connection that executes it.
        table: The table, for errors.
        timeout: The longest wait for a lock.
        mode: The mode of its lock on the table, for errors.

    Raises:
        TriggerError: The connection is in AUTOCOMMIT, or its role lacks a privilege.
        LockTimeoutError: A lock was not granted in time.
    """
    execute(connection, [kept("lock_timeout")])
    if not connection.scalar(text("SELECT current_setting('rowbell.lock_timeout', true)")):
        why = "the connection is in AUTOCOMMIT, so an error would leave half of it: begin() first"
        raise TriggerError(table, why)
    execute(connection, [f"SELECT set_config('lock_timeout', '{timeout}', true)"])
    _wait_for_the_others(connection, timeout)
    try:
        yield
    except DBAPIError as error:
        if has_sqlstate(error, LOCK_NOT_AVAILABLE):
            raise LockTimeoutError([table], mode, str(timeout)) from error
        if has_sqlstate(error, INSUFFICIENT_PRIVILEGE):
            why = f"the current role may not install here: {error.orig}; use the table's owner"
            raise TriggerError(table, why) from error
        raise  # the rollback of the failed transaction also restores the setting
    except BaseException:
        with suppress(SQLAlchemyError):  # after a cancellation, the connection may be lost
            execute(connection, [restored("lock_timeout")])
        raise
    execute(connection, [restored("lock_timeout")])


def _wait_for_the_others(connection: Connection, timeout: LockTimeout) -> None:
    """Take the lock for one installation at a time. Any role may hold it: the error names who."""
    try:
        with connection.begin_nested():
            execute(connection, [_ONE_AT_A_TIME])
    except DBAPIError as error:
        if not has_sqlstate(error, LOCK_NOT_AVAILABLE):
            raise
        holders = connection.scalars(
            text(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
                " AND classid::bigint = (hashtextextended('rowbell', 0) >> 32) & 4294967295"
                " AND objid::bigint = hashtextextended('rowbell', 0) & 4294967295"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        what = ["rowbell's installation (an advisory lock)"]
        raise LockTimeoutError(what, "EXCLUSIVE", str(timeout), holders.all()) from error


def execute(connection: Connection, statements: Iterable[str]) -> None:
    """Execute statements without parameters."""
    for statement in statements:
        connection.execute(verbatim(statement))


@contextmanager
def as_owner_of_the_schema(connection: Connection, owner: str | None) -> Generator[None]:
    """Create the objects of the block as the schema's owner, who is named as SQL."""
    if owner is None:
        yield
        return
    before = connection.scalar(text("SELECT current_setting('role')"))
    execute(connection, [f"SET LOCAL ROLE {owner}"])
    yield
    execute(connection, [f"SELECT set_config('role', {quote_literal(str(before))}, true)"])
