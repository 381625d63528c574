"""The connection that a session holds, and whether it shows the row as other connections do.

Reads use connections of the engine, not the session's connection. Settings of the session's own
connection do not apply to them:

==========================  ====================================================================
``schema_translate_map``    respected: it is taken from the connection
``search_path``, a role,    the wait polls on the session's own connection
row-level security
a temporary table           refused: no other connection has it
REPEATABLE READ and above   refused: the transaction would never show the change
read-only, timeouts         ignored: a wait only reads
==========================  ====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell._cancellation import finished
from rowbell._identifiers import qualified
from rowbell._sqlstate import IN_FAILED_TRANSACTION, has_sqlstate
from rowbell._watch.connections import run_apart
from rowbell.errors import SessionStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from rowbell._watch.rows.mapped_rows import MappedRows

_LOOK: Final = text("""
SELECT pg_catalog.current_setting('transaction_isolation') AS isolation,
       pg_catalog.current_setting('idle_in_transaction_session_timeout') AS idle_limit,
       CAST(current_user AS pg_catalog.text) AS role, current_user = session_user AS is_login,
       ARRAY(SELECT CAST(n.nspname AS pg_catalog.text)
             FROM pg_catalog.unnest(CAST(:names AS pg_catalog.text[]))
               WITH ORDINALITY AS t(name, at)
             LEFT JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(t.name)
             LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
             ORDER BY t.at) AS schemas,
       EXISTS (SELECT FROM pg_catalog.unnest(CAST(:names AS pg_catalog.text[])) AS t(name)
               WHERE pg_catalog.row_security_active(
                 CAST(pg_catalog.to_regclass(t.name) AS pg_catalog.oid))) AS is_restricted""")


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a session sees the tables of a class.

    Attributes:
        differs: Why other connections may show other rows; empty if they do not.
        idle_limit: The server's ``idle_in_transaction_session_timeout``, ``"0"`` for no limit.
    """

    differs: str = ""
    idle_limit: str = "0"


def held_connection(session: Session, bind: Engine | Connection) -> Connection | None:
    """The connection that the session holds, if it holds one.

    ``Session.connection()`` would check one out of the pool. No public API shows whether the
    session holds one, hence the private attribute.
    """
    if isinstance(bind, Connection):
        return bind if bind.in_transaction() else None
    transaction = session.get_transaction()
    held = getattr(transaction, "_connections", {}).get(bind)
    return held[0] if held else None


async def outlook_of(session: AsyncSession, held: Connection | None, rows: MappedRows) -> Outlook:
    """How the session sees the tables of a class.

    Raises:
        SessionStateError: The transaction would never show a change: it is REPEATABLE READ or
            SERIALIZABLE, or a statement in it has failed. Or a table is a temporary table.
    """
    if held is None or not rows.on_postgresql:
        return Outlook()
    names = [qualified(schema, table.name) for table, schema in _placed(rows)]
    asking = session.run_sync(lambda _: held.execute(_LOOK, {"names": names}).one())
    try:
        seen: Any = await finished(asking)
    except DBAPIError as error:
        if not has_sqlstate(error, IN_FAILED_TRANSACTION):
            raise
        raise SessionStateError(
            "a statement of the session's transaction has failed, so it cannot see a change: "
            "rollback() before the wait"
        ) from error
    if seen.isolation.upper() in {"REPEATABLE READ", "SERIALIZABLE"}:
        raise SessionStateError(
            f"the session is in a {seen.isolation.upper()} transaction, whose snapshot will never "
            "show the change: commit() or rollback() before the wait, or wait in another session"
        )
    _refuse_temporary(rows, seen.schemas)
    return Outlook(await _difference(held, rows, names, seen), seen.idle_limit)


def _refuse_temporary(rows: MappedRows, schemas: Sequence[str | None]) -> None:
    for table, schema in zip(rows.tables, schemas, strict=True):
        if schema is not None and schema.startswith("pg_temp"):
            raise SessionStateError(
                f"{table.name} is a temporary table of this session, which other connections "
                "cannot see: wait for rows of a permanent table"
            )


async def _difference(held: Connection, rows: MappedRows, names: list[str], seen: Any) -> str:
    """Why other connections of the engine may show other rows; empty if they do not."""
    if seen.is_restricted:
        return "row-level security applies to it"
    usual = {None, rows.dialect.default_schema_name}
    named = [schema for _, schema in _placed(rows)]
    places = zip(named, seen.schemas, strict=True)
    if seen.is_login and all(name is not None or schema in usual for name, schema in places):
        return ""

    def ask(connection: Connection) -> Any:
        return connection.execute(_LOOK, {"names": names}).one()

    other = await run_apart(AsyncEngine(held.engine), ask)
    if other.role != seen.role:
        return f"it acts as the role {seen.role}, and others of the engine as {other.role}"
    if other.schemas != seen.schemas:
        found = ", ".join(str(schema) for schema in seen.schemas)
        return f"its search_path leads to the schema {found}"
    return ""


def _placed(rows: MappedRows) -> list[tuple[Table, str | None]]:
    return [(table, rows.schema_map.get(table.schema, table.schema)) for table in rows.tables]
