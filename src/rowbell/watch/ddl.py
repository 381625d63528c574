"""Executes our DDL: under a lock timeout, one installation at a time, in pg_catalog's own terms.

Names in DDL are looked up in the ``search_path`` of the session that executes it, operators of a
trigger's ``WHEN`` too. So it is set to ``pg_catalog, pg_temp`` meanwhile, and everything of the
user's is named with its schema.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import DDL, Connection, text
from sqlalchemy.exc import DBAPIError

from rowbell.errors import LockTimeoutError, TriggerError
from rowbell.postgresql import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, has_sqlstate
from rowbell.watch.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from rowbell.lock_timeout import LockTimeout

_KEPT = ("lock_timeout", "search_path")
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('rowbell', 0))"


def limits(timeout: LockTimeout) -> tuple[list[str], list[str]]:
    """What limits the waits for locks in the rest of a transaction, and what ends that limit.

    The first also lets one installation run at a time.
    """
    kept = [
        f"SELECT set_config('rowbell.{name}', current_setting('{name}'), true)" for name in _KEPT
    ]
    restored = [
        f"SELECT set_config('{name}', current_setting('rowbell.{name}'), true)" for name in _KEPT
    ]
    limit = f"SELECT set_config('lock_timeout', '{timeout}', true)"
    return [*kept, limit, _ONE_AT_A_TIME], restored


PIN_SEARCH_PATH = "SELECT set_config('search_path', 'pg_catalog, pg_temp', true)"
UNPIN_SEARCH_PATH = "SELECT set_config('search_path', current_setting('rowbell.search_path'), true)"


@contextmanager
def installing(connection: Connection, table: str, timeout: LockTimeout) -> Generator[None]:
    """Whatever is executed in the block is DDL on that table, and on the schema ``rowbell``.

    Raises:
        TriggerError: The connection is in AUTOCOMMIT, or its role may not do this.
        LockTimeoutError: A lock was not granted in time.
    """
    before, after = limits(timeout)
    execute(connection, before[:1])
    if not connection.scalar(text("SELECT current_setting('rowbell.lock_timeout', true)")):
        why = "the connection is in AUTOCOMMIT, so half of it could be done: begin() first"
        raise TriggerError(table, why)
    execute(connection, before[1:-1])
    _wait_for_the_others(connection, timeout)
    try:
        execute(connection, [PIN_SEARCH_PATH])
        yield
    except DBAPIError as error:
        if has_sqlstate(error, LOCK_NOT_AVAILABLE):
            raise LockTimeoutError([table], "SHARE ROW EXCLUSIVE", str(timeout)) from error
        if has_sqlstate(error, INSUFFICIENT_PRIVILEGE):
            why = f"the current role may not install here: {error.orig}; use the table's owner"
            raise TriggerError(table, why) from error
        raise
    execute(connection, after)


def _wait_for_the_others(connection: Connection, timeout: LockTimeout) -> None:
    """One installation at a time. The lock is public: whoever holds it is named."""
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
    """Execute statements as they are."""
    for statement in statements:
        connection.execute(DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


@contextmanager
def as_owner_of_the_schema(connection: Connection, owner: str | None) -> Generator[None]:
    """What is created in the block belongs to the schema's owner, given as SQL."""
    if owner is None:
        yield
        return
    before = connection.scalar(text("SELECT current_setting('role')"))
    execute(connection, [f"SET LOCAL ROLE {owner}"])
    yield
    execute(connection, [f"SELECT set_config('role', '{before}', true)"])


