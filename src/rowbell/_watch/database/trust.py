"""Whose code would run: the owners of what triggers call, as the catalog has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, OID

from rowbell._watch.database.schema import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

TRIGGER_FUNCTION = "the trigger function"
"""What ``untrusted_owners`` calls the function of a table's triggers."""


def untrusted_owners(connection: Connection, tables: Sequence[int]) -> list[tuple[int, str, str]]:
    """The objects that a role owns, or may create, that could not change the tables itself.

    Args:
        connection: A connection to PostgreSQL.
        tables: The tables' oids.

    Returns:
        For each of the tables concerned its oid, what it is, and the role.
    """
    query = text(sql("untrusted_owners").replace("@tables@", ":tables"))
    query = query.bindparams(bindparam("tables", list(tables), ARRAY(OID)))
    return [(row.table_oid, row.what, row.role) for row in connection.execute(query)]


def refuse_untrusted_owners(table: str) -> str:
    """The statement that fails if there are any, for ``--sql``; the table is an SQL literal."""
    query = sql("untrusted_owners").replace("@tables@", f"ARRAY[to_regclass({table})::oid]")
    return f"""
DO $rowbell$
DECLARE
  untrusted record;
BEGIN
  FOR untrusted IN {query} LOOP
    RAISE EXCEPTION 'rowbell: % is %''s, whose code every writer would run',
      untrusted.what, untrusted.role;
  END LOOP;
END
$rowbell$""".strip()
