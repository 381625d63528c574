"""SQL identifiers and literals, quoted; and statements that have them in their text."""

from __future__ import annotations

from sqlalchemy import DDL


def quote_identifier(name: str) -> str:
    """The name as an SQL identifier. It is always quoted: a quoted name is never a keyword."""
    if "\0" in name or not name:
        raise ValueError(f"not an identifier: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    """The text as an SQL literal that is valid for any ``standard_conforming_strings``."""
    quoted = "'" + value.replace("'", "''").replace("\\", "\\\\") + "'"
    return f"E{quoted}" if "\\" in value else quoted


def qualified(schema: str | None, name: str) -> str:
    """The name of a table, with its schema if it has one."""
    table = quote_identifier(name)
    return f"{quote_identifier(schema)}.{table}" if schema else table


def verbatim(statement: str) -> DDL:
    """A statement without parameters; ``%`` and ``:`` in a name are no placeholders.

    The drivers differ in that: psycopg reads ``%s`` in a name as a parameter.
    """
    return DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
