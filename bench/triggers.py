"""The triggers that are measured on the writer's side: rowbell's, its peers', and none."""

from __future__ import annotations

import os

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

from rowbell._watch.database.schema import schema_statements
from rowbell._watch.database.triggers import ForEach, TableTriggers
from rowbell._watch.values.key_hash import KeyColumn
from table import connect, execute, model

TABLE = "written"
KEY = (KeyColumn("id"),)
ROWBELL = TableTriggers(None, TABLE, KEY, ForEach.STATEMENT)
DECLARED = TableTriggers(None, TABLE, KEY, ForEach.ROW, declared=("status",))
TABLES = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT"
NONE = "no trigger"


def plain(name: str, body: str, when: str) -> list[str]:
    """A function of that body, and a trigger that runs it."""
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        f"CREATE TRIGGER {name} AFTER UPDATE ON {TABLE} {when} EXECUTE FUNCTION {name}()",
    ]


async def of_sqlnotify(url: URL) -> list[str]:
    """What sqlnotify installs: its function stays, the trigger is returned."""
    from sqlnotify import Notifier, Operation  # noqa: PLC0415

    os.environ["PGHOST"] = str(url.query["host"])
    engine = create_async_engine(url)
    notifier = Notifier(db_engine=engine)
    notifier.watch(model(TABLE), Operation.UPDATE)
    await notifier.astart()
    await notifier.astop()
    await engine.dispose()
    connection = await connect(url)
    found = "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1::regclass"
    [(name, definition)] = await connection.fetch(f"{found} AND NOT tgisinternal", TABLE)
    await connection.execute(f'DROP TRIGGER "{name}" ON {TABLE}')
    await connection.close()
    return [definition]


async def prepared(url: URL) -> dict[str, list[str]]:
    """All triggers; their functions are created here, the statements that create them returned."""
    from pg_sse import trigger_sql  # noqa: PLC0415

    await execute(url, ["CREATE SCHEMA IF NOT EXISTS rowbell", *schema_statements()])
    nothing = "BEGIN RETURN NULL; END"
    found = {
        NONE: [],
        "does nothing": plain("does_nothing", nothing, TABLES),
        "rowbell": [*ROWBELL.create_function(), ROWBELL.create_triggers()[0]],
        "rowbell, declared": [*DECLARED.create_function(), DECLARED.create_triggers()[0]],
        "pg_notify": plain(
            "tells",
            f"BEGIN PERFORM pg_notify('{TABLE}', NEW.id::text); RETURN NULL; END",
            "FOR EACH ROW",
        ),
        "sqlnotify": await of_sqlnotify(url),
        "pg-sse": [trigger_sql(TABLE, key_column="id", channel=TABLE)],
    }
    triggers: dict[str, list[str]] = {}
    for name, statements in found.items():
        functions = [s for s in statements if "FUNCTION" in s and not s.startswith("CREATE TRIG")]
        functions = [s for s in functions if not s.startswith("CREATE OR REPLACE TRIG")]
        await execute(url, functions)
        triggers[name] = [s for s in statements if s not in functions or name == "pg-sse"]
    await dropped(url)
    return triggers


async def dropped(url: URL) -> None:
    """Take all triggers off the table."""
    connection = await connect(url)
    query = "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal"
    for (name,) in await connection.fetch(query, TABLE):
        await connection.execute(f'DROP TRIGGER "{name}" ON {TABLE}')
    await connection.close()


async def watched(url: URL, first: int, count: int, columns: str | None = None) -> None:
    """Have exactly that many rows of the table watched, from that key on."""
    array = "NULL" if columns is None else f"'{columns}'"
    await execute(
        url,
        [
            "TRUNCATE rowbell.registration",
            "INSERT INTO rowbell.registration"
            f" SELECT '{TABLE}'::regclass, hash_record_extended(ROW(i), 0), 1, {array}"
            f" FROM generate_series({first}, {first + count - 1}) AS i",
            f"SELECT setval('rowbell.has_registrations', {int(count > 0)})",
            "VACUUM ANALYZE rowbell.registration",
        ],
    )
