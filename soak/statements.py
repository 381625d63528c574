"""The statements of each kind of writer, between BEGIN and COMMIT.

A writer that inserts, deletes or changes a key first takes a lock on the key. So the numbers of the
row versions with one key are in the order of the commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from plan import ITEMS, ROWS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import asyncpg

    from plan import Write

Connection: TypeAlias = "asyncpg.Connection[Any]"
Work: TypeAlias = "Callable[[Connection, Write], Awaitable[None]]"

_TABLES: Final = list(ROWS)


def _set(write: Write, word: str = "written") -> str:
    """The SET clause of an UPDATE."""
    return f"SET state = '{word}', spare = {write.table}.spare + 1" + (
        f", mark = {write.table}.mark + 1" if write.marks else ""
    )


async def _lock(connection: Connection, table: str, keys: Iterable[int]) -> None:
    await connection.execute(
        "SELECT pg_advisory_xact_lock($1::integer, key) FROM unnest($2::integer[]) AS key",
        _TABLES.index(table),
        sorted(keys),
    )


async def _update(connection: Connection, write: Write) -> None:
    statement = f"UPDATE {write.table} {_set(write)} WHERE id = ANY ($1::bigint[])"
    await connection.execute(statement, list(write.keys))


async def _copy(connection: Connection, write: Write) -> None:
    await connection.execute("CREATE TEMP TABLE given (key bigint) ON COMMIT DROP")
    await connection.copy_records_to_table("given", records=[(key,) for key in write.keys])
    await connection.execute(f"UPDATE {write.table} {_set(write)} FROM given WHERE id = given.key")


async def _upsert(connection: Connection, write: Write) -> None:
    await _lock(connection, write.table, write.keys)
    statement = (
        f"INSERT INTO {write.table} (id) SELECT unnest($1::bigint[])"
        f" ON CONFLICT (id) DO UPDATE {_set(write)}"
    )
    await connection.execute(statement, list(write.keys))


async def _merge(connection: Connection, write: Write) -> None:
    await _lock(connection, write.table, write.keys)
    setting = _set(write).replace("SET", "UPDATE SET", 1)
    statement = (
        f"MERGE INTO {write.table} USING unnest($1::bigint[]) AS given(key) ON id = given.key"
        f" WHEN MATCHED AND id % 7 = 0 THEN DELETE WHEN MATCHED THEN {setting}"
        " WHEN NOT MATCHED THEN INSERT (id) VALUES (given.key)"
    )
    await connection.execute(statement, list(write.keys))


async def _cte(connection: Connection, write: Write) -> None:
    statement = (
        f"WITH changed AS (UPDATE {write.table} {_set(write)} WHERE id = ANY ($1::bigint[])"
        " RETURNING id) SELECT count(*) FROM changed"
    )
    await connection.execute(statement, list(write.keys))


async def _away(connection: Connection, write: Write) -> None:
    await _lock(connection, write.table, (*write.keys, *(-key for key in write.keys)))
    statement = f"UPDATE {write.table} SET id = -id WHERE id = ANY ($1::bigint[])"
    await connection.execute(statement, list(write.keys))


async def _back(connection: Connection, write: Write) -> None:
    """Give the row its old key, unless another row has the key now."""
    away = [-key for key in write.keys]
    await _lock(connection, write.table, (*write.keys, *away))
    await connection.execute(
        f"DELETE FROM {write.table} WHERE id = ANY ($1::bigint[])"
        f" AND -id IN (SELECT id FROM {write.table})",
        away,
    )
    statement = f"UPDATE {write.table} SET id = -id WHERE id = ANY ($1::bigint[])"
    await connection.execute(statement, away)


async def _exchange(connection: Connection, write: Write) -> None:
    """Swap the keys of two rows, with a third key that no other writer uses."""
    one, other = write.keys[0], write.keys[-1]
    between = -500_000 - one
    await _lock(connection, write.table, (one, other, between))
    statement = f"UPDATE {write.table} SET id = $2 WHERE id = $1"
    for old, new in ((one, between), (other, one), (between, other)):
        await connection.execute(statement, old, new)


async def _cascaded_update(connection: Connection, write: Write) -> None:
    statement = "UPDATE owners SET code = nextval('soak_number') WHERE id = $1"
    await connection.execute(statement, write.keys[0])


def _items(write: Write) -> list[int]:
    first = (write.keys[0] - 1) * ITEMS + 1
    return list(range(first, first + ITEMS))


async def _cascaded_delete(connection: Connection, write: Write) -> None:
    await _lock(connection, "owners", write.keys)
    await _lock(connection, "items", _items(write))
    await connection.execute("DELETE FROM owners WHERE id = $1", write.keys[0])


async def _owner(connection: Connection, write: Write) -> None:
    """Insert the owner and its items again."""
    await _lock(connection, "owners", write.keys)
    await _lock(connection, "items", _items(write))
    await connection.execute(
        "INSERT INTO owners (id, code) VALUES ($1, nextval('soak_number'))"
        " ON CONFLICT (id) DO UPDATE SET state = 'again'",
        write.keys[0],
    )
    await connection.execute(
        "INSERT INTO items (id, code) SELECT unnest($2::bigint[]), code FROM owners WHERE id = $1"
        " ON CONFLICT (id) DO UPDATE SET state = 'again'",
        write.keys[0],
        _items(write),
    )


async def _delete(connection: Connection, write: Write) -> None:
    await _lock(connection, write.table, write.keys)
    statement = f"DELETE FROM {write.table} WHERE id = ANY ($1::bigint[])"
    await connection.execute(statement, list(write.keys))


async def _replace(connection: Connection, write: Write) -> None:
    await _delete(connection, write)
    await _upsert(connection, write)


async def _savepoint(connection: Connection, write: Write) -> None:
    """Most of the changed rows are rolled back."""
    await _update(connection, write)
    await connection.execute("SAVEPOINT here")
    await connection.execute(f"UPDATE {write.table} {_set(write)} WHERE id < 20")
    await connection.execute("ROLLBACK TO SAVEPOINT here")
    await connection.execute("SAVEPOINT there")
    await _update(connection, write)
    await connection.execute("RELEASE SAVEPOINT there")


async def _muted(connection: Connection, write: Write) -> None:
    await connection.execute("SET LOCAL rowbell.notify = off")
    await _update(connection, write)


async def _deferred(connection: Connection, write: Write) -> None:
    """A deferred trigger writes another row at COMMIT."""
    statement = f"UPDATE jobs {_set(write, 'deferred')} WHERE id = ANY ($1::bigint[])"
    await connection.execute(statement, list(write.keys))


STATEMENTS: Final[dict[str, tuple[Work, ...]]] = {
    "update": (_update,),
    "autocommit": (_update,),
    "copy": (_copy,),
    "upsert": (_upsert,),
    "merge": (_merge, _upsert),
    "cte": (_cte,),
    "bulk": (_update,),
    "away and back": (_away, _back),
    "exchange": (_exchange,),
    "cascaded update": (_cascaded_update,),
    "cascaded delete": (_cascaded_delete, _owner),
    "delete, insert": (_delete, _upsert),
    "replace": (_replace,),
    "savepoint": (_savepoint,),
    "rollback": (_update,),
    "prepared": (_muted,),
    "deferred": (_deferred,),
    "muted": (_muted,),
}
"""The transactions of each kind of write, except the ORM's unit of work."""
