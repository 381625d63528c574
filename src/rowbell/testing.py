"""Databases for tests: create, copy, empty and drop them; and sessions that roll back."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, MetaData, Sequence, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell._cancellation import complete
from rowbell._identifiers import qualified, quote_identifier, verbatim
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._locks.waiting import lock_wait
from rowbell._mapping import schema_map_of, sync_connection, table_name
from rowbell._sqlstate import (
    DUPLICATE_DATABASE,
    IN_FAILED_TRANSACTION,
    INVALID_CATALOG_NAME,
    OBJECT_IN_USE,
    UNIQUE_VIOLATION,
    has_sqlstate,
)
from rowbell._urls import driver_of, url_for
from rowbell.errors import DatabaseStateError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = [
    "cleanup_tables",
    "create_database",
    "drop_database",
    "rolled_back_session",
]

_LONGEST_NAME: Final = 63
"""In bytes. PostgreSQL truncates longer names, so two names could mean the same database."""


async def create_database(
    db_name: str,
    *,
    server_url: str | URL,
    template: str | None = None,
    exist_ok: bool = False,
) -> None:
    """Create a database.

    Args:
        db_name: Its name, taken literally: capitals and spaces count. At most 63 bytes.
        server_url: A URL of any other database of the server, for example ``postgres``. A URL that
            names psycopg is used with psycopg, any other with asyncpg.
        template: The database to copy, with its tables, rows and triggers. Meanwhile no session
            may be connected to it.
        exist_ok: Accept an existing database of that name, as it is.

    Raises:
        InvalidArgumentError: PostgreSQL would refuse or truncate a name; at the call.
        DatabaseStateError: The database exists; or the template is missing or in use.

    Example:
        .. code-block:: python

            await rowbell.create_database("shop_test", server_url=SERVER_URL)
    """
    statement = f"CREATE DATABASE {_name('db_name', db_name)}"
    if template is not None:
        statement += f" TEMPLATE {_name('template', template)}"
    try:
        await _execute(server_url, statement)
    except DBAPIError as error:
        # The second error occurs if two sessions create it at the same time.
        if has_sqlstate(error, DUPLICATE_DATABASE, UNIQUE_VIOLATION):
            if exist_ok:
                return
            raise DatabaseStateError(
                db_name, "exists", "drop it first, or pass exist_ok=True to use it as it is"
            ) from error
        source = template or "template1"
        if has_sqlstate(error, INVALID_CATALOG_NAME):
            raise DatabaseStateError(source, "missing", "create the template first") from error
        if has_sqlstate(error, OBJECT_IN_USE):
            users = await _users(server_url, source)
            remedy = f"by {users}; it can only be copied without connections, so close them"
            raise DatabaseStateError(source, "in use", remedy) from error
        raise


async def drop_database(
    db_name: str, *, server_url: str | URL, force: bool = True, missing_ok: bool = False
) -> None:
    """Drop a database.

    Args:
        db_name: Its name, taken literally.
        server_url: A URL of any other database of the server.
        force: End all open connections to it (``WITH (FORCE)``).
        missing_ok: Do nothing if the database does not exist.

    Raises:
        InvalidArgumentError: The name is invalid; at the call.
        DatabaseStateError: The database does not exist, or it is in use and ``force`` is false.

    Example:
        .. code-block:: python

            await rowbell.drop_database("shop_test", server_url=SERVER_URL)
    """
    suffix = " WITH (FORCE)" if force else ""
    try:
        await _execute(server_url, f"DROP DATABASE {_name('db_name', db_name)}{suffix}")
    except DBAPIError as error:
        if has_sqlstate(error, INVALID_CATALOG_NAME):
            if missing_ok:
                return
            raise DatabaseStateError(
                db_name, "missing", "there is nothing to drop; missing_ok=True accepts that"
            ) from error
        if has_sqlstate(error, OBJECT_IN_USE):
            users = await _users(server_url, db_name)
            remedy = f"by {users}; close these connections, or pass force=True to end them"
            raise DatabaseStateError(db_name, "in use", remedy) from error
        raise


async def cleanup_tables(
    session: AsyncSession,
    base: type[Any] | MetaData,
    *,
    timeout: LockTimeoutValue | None = "10s",
) -> None:
    """Empty all tables of a declarative base, restart their sequences, and commit.

    It is one ``TRUNCATE … RESTART IDENTITY CASCADE``. This also empties tables outside of the
    metadata that refer to a table in it. Sequences of the metadata that belong to no column
    are restarted too. Materialized views in it are refreshed; views and foreign tables are
    not changed.

    Args:
        session: The session. Its instances are expunged: their rows are deleted, and pending
            instances are not inserted. A failed transaction is rolled back; any other
            transaction is committed, with everything else in it.
        base: The declarative base (or ``SQLModel``), or a ``MetaData``. Without tables nothing
            is done.
        timeout: The longest wait for the tables: seconds, a ``timedelta``, or a text in
            PostgreSQL's form. ``None`` keeps the session's own ``lock_timeout``. If a test has
            left a transaction open, this raises an error and does not hang.

    Raises:
        InvalidArgumentError: ``base`` has no metadata, or the timeout is invalid; at the call.
        LockTimeoutError: Another transaction uses one of the tables; the session is rolled back.

    Example:
        .. code-block:: python

            await rowbell.cleanup_tables(session, Base)
    """
    metadata = base if isinstance(base, MetaData) else getattr(base, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise InvalidArgumentError("base", base, "a declarative base, or a MetaData")
    limit = None if timeout is None else LockTimeout.of(timeout)
    tables = sorted(metadata.tables.values(), key=lambda table: table.fullname)
    if not tables:
        return
    mappers = getattr(getattr(base, "registry", None), "mappers", ())
    bind = session.sync_session.get_bind(next(iter(mappers), None), clause=tables[0])
    session.expunge_all()  # pending instances would be inserted after the TRUNCATE
    if not session.is_active:
        await session.rollback()
    if not session.sync_session.autobegin and not session.in_transaction():
        await session.begin()
    try:
        try:
            await _empty(session, bind, metadata, limit)
        except DBAPIError as error:
            if not has_sqlstate(error, IN_FAILED_TRANSACTION):
                raise
            await session.rollback()
            await _empty(session, bind, metadata, limit)
        await session.commit()
    except BaseException:
        await complete(session.rollback())
        raise


_KINDS: Final = text(
    "SELECT n.name, c.relkind::text, c.relispopulated FROM unnest(CAST(:names AS text[]))"
    " WITH ORDINALITY AS n(name, place) LEFT JOIN pg_class AS c ON c.oid = to_regclass(n.name)"
    " ORDER BY c.oid"
)


async def _empty(
    session: AsyncSession,
    bind: Engine | Connection,
    metadata: MetaData,
    timeout: LockTimeout | None,
) -> None:
    connection = await session.connection(bind_arguments={"bind": bind})
    schema_map = schema_map_of(session.sync_session, sync_connection(connection))
    names = sorted(table_name(table, schema_map) for table in metadata.tables.values())
    found = (await connection.execute(_KINDS, {"names": names})).all()
    tables = [name for name, kind, _ in found if kind not in {"v", "m", "f"}]
    # In the order of creation, because a view may select from earlier ones.
    views = [name for name, kind, populated in found if kind == "m" and populated]
    statements = [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"] if tables else []
    statements += [
        f"ALTER SEQUENCE IF EXISTS {qualified(schema_map.get(s.schema, s.schema), s.name)} RESTART"
        for s in _sequences(metadata)
    ]
    statements += [f"REFRESH MATERIALIZED VIEW {name}" for name in views]
    async with lock_wait(connection, timeout, tables + views, "ACCESS EXCLUSIVE"):
        for statement in statements:
            await connection.execute(verbatim(statement))


def _sequences(metadata: MetaData) -> list[Sequence]:
    """The sequences of columns, and those of the metadata itself, which no public API lists."""
    of_columns = (c.default for table in metadata.tables.values() for c in table.columns)
    declared = getattr(metadata, "_sequences", {}).values()
    found = dict.fromkeys(s for s in (*of_columns, *declared) if isinstance(s, Sequence))
    return sorted(found, key=lambda sequence: (sequence.schema or "", sequence.name))


@asynccontextmanager
async def rolled_back_session(
    engine: AsyncEngine, **options: Any
) -> AsyncGenerator[AsyncSession, None]:
    """A session whose work is rolled back at the end, including its commits.

    It is bound to one connection with an outer transaction. Its commits release a SAVEPOINT, and
    its rollbacks roll back to a SAVEPOINT. No other session sees what it writes, and nothing
    notifies. For tests that need real commits, see :func:`cleanup_tables` and databases that are
    created for a test.

    Args:
        engine: The engine.
        **options: Further arguments of ``AsyncSession``, such as ``expire_on_commit=False``.

    Yields:
        The session.

    Example:
        .. code-block:: python

            async with rolled_back_session(engine) as session:
                session.add(Order(status="new"))
                await session.commit()
    """
    async with engine.connect() as connection, connection.begin() as transaction:
        async with AsyncSession(
            connection, join_transaction_mode="create_savepoint", **options
        ) as session:
            yield session
        await transaction.rollback()


def _name(argument: str, name: str) -> str:
    size = len(name.encode())
    if not 0 < size <= _LONGEST_NAME or "\0" in name:
        expected = f"a name of 1 to {_LONGEST_NAME} bytes, without NUL"
        raise InvalidArgumentError(argument, name, expected)
    return quote_identifier(name)


async def _execute(server_url: str | URL, statement: str) -> None:
    async with _connected(server_url) as connection:
        await connection.execute(verbatim(statement))


_USERS: Final = text(
    "SELECT pid, usename, application_name, state FROM pg_stat_activity"
    " WHERE datname = :database AND pid <> pg_backend_pid() ORDER BY pid LIMIT 5"
)


async def _users(server_url: str | URL, database: str) -> str:
    """The clients that are connected to a database, for a message."""
    async with _connected(server_url) as connection:
        users = (await connection.execute(_USERS, {"database": database})).all()
    described = (
        f"pid {pid} ({', '.join(filter(None, (role, application, state)))})"
        for pid, role, application, state in users
    )
    return ", ".join(described) or "a connection that has been closed meanwhile"


@asynccontextmanager
async def _connected(server_url: str | URL) -> AsyncGenerator[AsyncConnection, None]:
    url = url_for(driver_of(server_url), server_url)
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()
