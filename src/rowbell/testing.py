"""Databases for tests: created, cloned, emptied, dropped; and sessions that roll back."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, MetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell.cleanup import complete
from rowbell.errors import DatabaseStateError, InvalidArgumentError
from rowbell.lock_timeout import LockTimeout, LockTimeoutValue
from rowbell.locks.waiting import lock_wait
from rowbell.mapping import quote_identifier, schema_map_of, sync_connection, table_name
from rowbell.postgresql import (
    DUPLICATE_DATABASE,
    IN_FAILED_TRANSACTION,
    INVALID_CATALOG_NAME,
    OBJECT_IN_USE,
    UNIQUE_VIOLATION,
    asyncpg_url,
    has_sqlstate,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import DeclarativeBase

_LONGEST_NAME: Final = 63
"""In bytes; PostgreSQL cuts longer ones, so two of them could mean one database."""


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
        server_url: A URL of any database of the server, ``postgres`` say; not of ``db_name``.
        template: The database to clone, with its tables, rows and triggers. Nobody may be
            connected to it meanwhile.
        exist_ok: Accept a database of that name that exists already, as it is.

    Raises:
        InvalidArgumentError: A name that PostgreSQL would refuse or cut; at the call.
        DatabaseStateError: The database exists, or the template does not, or is in use.

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
        # The second is what one of two gets that create it at the same time.
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
            remedy = "a database can be cloned while nobody is connected to it: close those"
            raise DatabaseStateError(source, "in use", remedy) from error
        raise


async def drop_database(
    db_name: str, *, server_url: str | URL, force: bool = True, missing_ok: bool = False
) -> None:
    """Drop a database.

    Args:
        db_name: Its name, taken literally.
        server_url: A URL of any other database of the server.
        force: End the connections that are open to it (``WITH (FORCE)``), whosever they are.
        missing_ok: Do nothing where there is no such database.

    Raises:
        InvalidArgumentError: A name that cannot be one; at the call.
        DatabaseStateError: There is no such database, or without ``force`` it is in use.

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
            raise DatabaseStateError(
                db_name, "in use", "close the connections to it, or pass force=True to end them"
            ) from error
        raise


async def cleanup_tables(
    session: AsyncSession,
    base: type[DeclarativeBase] | MetaData,
    *,
    timeout: LockTimeoutValue | None = "10s",
) -> None:
    """Empty all tables of a declarative base, restart their sequences, and commit.

    It is one ``TRUNCATE … RESTART IDENTITY CASCADE``, which empties tables outside of the
    metadata too where they refer to one in it.

    Args:
        session: The session. Its instances are expunged: their rows are gone, and what is
            pending is not inserted any more. A transaction that has failed is rolled back, any
            other one committed, with what else it did.
        base: The declarative base, or a ``MetaData``. Without tables nothing is done.
        timeout: The longest wait for the tables: seconds, a ``timedelta``, or a text as
            PostgreSQL takes it; ``None`` leaves the session's own ``lock_timeout`` in force. A
            transaction that a test has left open ends here as an error, not as a hang.

    Raises:
        InvalidArgumentError: A timeout that is none; at the call.
        LockTimeoutError: Another transaction uses one of the tables; the session is rolled back.

    Example:
        .. code-block:: python

            await rowbell.cleanup_tables(session, Base)
    """
    metadata = base if isinstance(base, MetaData) else base.metadata
    limit = None if timeout is None else LockTimeout.of(timeout)
    tables = sorted(metadata.tables.values(), key=lambda table: table.fullname)
    if not tables:
        return
    mapper = None if isinstance(base, MetaData) else next(iter(base.registry.mappers), None)
    bind = session.sync_session.get_bind(mapper, clause=tables[0])
    session.expunge_all()  # what is pending would be inserted after the TRUNCATE
    if not session.is_active:
        await session.rollback()
    try:
        try:
            await _truncate(session, bind, tables, limit)
        except DBAPIError as error:
            if not has_sqlstate(error, IN_FAILED_TRANSACTION):
                raise
            await session.rollback()
            await _truncate(session, bind, tables, limit)
        await session.commit()
    except BaseException:
        await complete(session.rollback())
        raise


async def _truncate(
    session: AsyncSession,
    bind: Engine | Connection,
    tables: list[Table],
    timeout: LockTimeout | None,
) -> None:
    connection = await session.connection(bind_arguments={"bind": bind})
    schema_map = schema_map_of(session.sync_session, sync_connection(connection))
    names = [table_name(table, schema_map) for table in tables]
    async with lock_wait(connection, timeout, names, "ACCESS EXCLUSIVE"):
        await connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")


@asynccontextmanager
async def rolled_back_session(
    engine: AsyncEngine, **options: Any
) -> AsyncGenerator[AsyncSession, None]:
    """A session whose work is rolled back at the end, whatever it commits.

    It is bound to one connection with an outer transaction. Its commits release a SAVEPOINT,
    its rollbacks go back to one. Nobody else sees what it writes, and nothing notifies; see
    :func:`cleanup_tables` and databases of their own for tests that need real commits.

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
    engine = create_async_engine(
        asyncpg_url(server_url), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()
