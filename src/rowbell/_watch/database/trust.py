"""The owners of the code that triggers run, as the catalog has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, OID

from rowbell._watch.database.ddl import pinned
from rowbell._watch.database.schema import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

TRIGGER_FUNCTION = "the trigger function"
"""The name of a table's trigger function in the result of ``untrusted_owners``."""


def untrusted_owners(connection: Connection, tables: Sequence[int]) -> list[tuple[int, str, str]]:
    """The objects that are owned, or may be created, by a role that cannot change the tables.

    Args:
        connection: A connection to PostgreSQL.
        tables: The tables' oids.

    Returns:
        For each table concerned: its oid, the object, and the role.
    """
    query = text(sql("untrusted_owners").replace("@tables@", ":tables"))
    query = query.bindparams(bindparam("tables", list(tables), ARRAY(OID)))
    return [(row.table_oid, row.what, row.role) for row in connection.execute(query)]


def refuse_untrusted_owners(table: str) -> list[str]:
    """The statements that fail if there are any, for ``--sql``. The table is an SQL literal.

    The ``search_path`` of the user may decide which table it is, and nothing else.
    """
    oid = f"pg_catalog.to_regclass({table})::pg_catalog.oid::pg_catalog.text"
    kept = f"SELECT pg_catalog.set_config('rowbell.table', {oid}, true)"
    tables = "ARRAY[current_setting('rowbell.table')::oid]"
    query = sql("untrusted_owners").replace("@tables@", tables)
    refuse = f"""
DO $rowbell$
DECLARE
  untrusted record;
BEGIN
  FOR untrusted IN {query} LOOP
    RAISE EXCEPTION 'rowbell: % belongs to %, and every writer would run its code',
      untrusted.what, untrusted.role;
  END LOOP;
END
$rowbell$""".strip()
    return [kept, *pinned([refuse])]
