"""The triggers whose cost for writers is compared: rowbell's, those of other libraries, and none.

Each library installs its trigger once. The statement that creates the trigger is saved, and the
trigger's function stays in the database.
"""

from __future__ import annotations

import os

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from table import connected, execute, model

TABLE = "written"
NONE = "no trigger"
NOTHING = "does nothing"
ROWBELL = "rowbell"
ROW_FORM = "rowbell, row form"
DECLARED = "rowbell, declared"
PG_NOTIFY = "pg_notify"
SQLNOTIFY = "sqlnotify"
PG_SSE = "pg-sse"
PEERS = (PG_NOTIFY, SQLNOTIFY, PG_SSE)
OF_INSERT, OF_UPDATE = 4, 16
"""The events' bits in pg_trigger.tgtype."""


class Base(DeclarativeBase):
    pass


class Another(DeclarativeBase):
    pass


@rowbell.watched(columns=["status"])
class Declared(Base):
    """The same table, with declared columns."""

    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


@rowbell.watched(for_each="row")
class RowByRow(Another):
    """The same table, in the row form."""

    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)


async def installed(url: URL) -> dict[str, list[str]]:
    """Install each trigger and drop it again. Return the statements that create it."""
    nothing = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT"
    await dropped(url)
    found: dict[str, list[str]] = {NONE: []}
    await by_hand(url, "does_nothing", "RETURN NULL;", nothing)
    found[NOTHING] = await taken_off(url)
    await by_rowbell(url, model(TABLE))
    found[ROWBELL] = await taken_off(url)
    await by_rowbell(url, RowByRow)
    found[ROW_FORM] = await taken_off(url)
    await by_rowbell(url, Declared)
    found[DECLARED] = await taken_off(url)
    body = f"PERFORM pg_notify('{TABLE}', NEW.id::text); RETURN NULL;"
    await by_hand(url, "notify", body, "FOR EACH ROW")
    found[PG_NOTIFY] = await taken_off(url)
    await by_sqlnotify(url)
    found[SQLNOTIFY] = await taken_off(url)
    await by_pg_sse(url)
    found[PG_SSE] = await taken_off(url)
    return found


async def by_hand(url: URL, name: str, body: str, when: str, event: str = "UPDATE") -> None:
    """Create a function with that body, and a trigger that calls it."""
    await execute(
        url,
        [
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$ BEGIN {body} END $$",
            f"CREATE TRIGGER {name} AFTER {event} ON {TABLE} {when} EXECUTE FUNCTION {name}()",
        ],
    )


async def by_rowbell(url: URL, mapped: type[DeclarativeBase]) -> None:
    """Install rowbell's triggers for a mapped class."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(rowbell.install_triggers, mapped)
    await engine.dispose()


async def by_sqlnotify(url: URL) -> None:
    """Start sqlnotify, which installs its trigger."""
    from sqlnotify import Notifier, Operation  # noqa: PLC0415

    os.environ["PGHOST"] = str(url.query["host"])
    engine = create_async_engine(url)
    notifier = Notifier(db_engine=engine)
    notifier.watch(model(TABLE), Operation.UPDATE)
    await notifier.astart()
    await notifier.astop()
    await engine.dispose()


async def by_pg_sse(url: URL) -> None:
    """Install pg-sse's trigger, which it gives as SQL."""
    from pg_sse import trigger_sql  # noqa: PLC0415

    await execute(url, [trigger_sql(TABLE, key_column="id", channel=TABLE)])


async def taken_off(url: URL, event: int = OF_UPDATE) -> list[str]:
    """Drop all triggers of the table. Return the statements that create those for the event."""
    query = (
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE tgrelid = $1::regclass AND NOT tgisinternal AND tgtype & $2 <> 0"
    )
    async with connected(url) as connection:
        found = [str(definition) for (definition,) in await connection.fetch(query, TABLE, event)]
    await dropped(url)
    return found


async def dropped(url: URL) -> None:
    """Drop all triggers of the table."""
    query = "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal"
    async with connected(url) as connection:
        for (name,) in await connection.fetch(query, TABLE):
            await connection.execute(f'DROP TRIGGER "{name}" ON {TABLE}')


async def registered(
    url: URL, first: int, count: int, columns: str | None = None, *, elsewhere: bool = False
) -> None:
    """Register exactly that many rows of the table, or of another one, beginning at that key."""
    array = "NULL" if columns is None else f"'{columns}'"
    oid = f"'{TABLE}'::regclass::oid"
    if elsewhere:  # the next oid has another flag
        oid = f"({oid}::bigint + 1)::oid"
    await execute(
        url,
        [
            "TRUNCATE rowbell.registration",
            "INSERT INTO rowbell.registration"
            f" SELECT {oid}, hash_record_extended(ROW(i), 0), 1, {array}"
            f" FROM generate_series({first}, {first + count - 1}) AS i",
            f"SELECT setval('rowbell.table_flags', {int(count > 0)} * rowbell.table_flag({oid}))",
            "VACUUM ANALYZE rowbell.registration",
        ],
    )
