"""The text of a trigger function, which is made from the files ``sql/trigger_*.sql``.

=======================  ==========================================================================
``trigger_guard``        the outer part: what protects the writer
``trigger_statement``    the statement form: what has changed, and the notification
``trigger_gate``         before that: is one of the rows registered?
``trigger_row``          the row form
the other files          what is added where inserts are declared
=======================  ==========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rowbell._identifiers import quote_literal
from rowbell._watch.database.schema import KEYS_PER_TRANSACTION, sql
from rowbell._watch.values.key_hash import WHOLE_TABLE, KeyColumn, key_hash

_BOTH: Final = "(SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows)"
_NO_KEYS: Final = "SELECT NULL::bigint[] AS keys WHERE $1 IS NULL"
_WHOLE_TABLE: Final = f"'{WHOLE_TABLE}'::bigint"


@dataclass(frozen=True, slots=True)
class TriggerSource:
    """What the text of a trigger function depends on.

    Attributes:
        key: The columns of the table's primary key, sorted by name.
        by_row: Whether it is the row form.
        inserts: Whether the triggers fire for inserts, too. Then the key of an updated row may be
            new, and the whole table may be registered.
    """

    key: tuple[KeyColumn, ...]
    by_row: bool
    inserts: bool

    @property
    def text(self) -> str:
        """The function's body."""
        row = ("OLD", "NEW") if self.by_row else ("o", "n")
        old, new = (key_hash(name, self.key) for name in row)
        parts = {
            "whole_table": _WHOLE_TABLE,
            "registered_table": _registered(_WHOLE_TABLE),
            "registered_old": _registered(old),
            "registered_new": _registered(new),
            "old_key": old,
            "new_key": new,
            "old_key_in_format": old.replace("%", "%%"),
            "new_key_in_format": new.replace("%", "%%"),
        }
        guard = self._row_parts(parts) if self.by_row else self._statement_parts(parts)
        return _filled(sql("trigger_guard").split("$rowbell$")[1], **guard)

    def _row_parts(self, parts: dict[str, str]) -> dict[str, str]:
        """What the row form fills the outer part of the function with."""
        old, new = parts["old_key"], parts["new_key"]
        retyped_keys = f"SELECT ARRAY[{key_hash('($1)', self.key)}] AS keys"
        all_keys, inserts = f"ARRAY[{old}]", ""
        if self.inserts:
            inserts, retyped_keys = _filled(sql("trigger_row_inserts"), **parts), _NO_KEYS
            all_keys = (
                f"ARRAY[{_WHOLE_TABLE}] || CASE TG_OP WHEN 'INSERT' THEN ARRAY[{new}]"
                f" WHEN 'DELETE' THEN ARRAY[{old}] ELSE ARRAY[{old}, {new}] END"
            )
        return {
            "root": "coalesce(pg_partition_root(TG_RELID), TG_RELID)",
            "updated": "",
            "all_keys": all_keys,
            "retyped_keys": quote_literal(retyped_keys),
            "body": _filled(sql("trigger_row"), inserts=inserts, **parts),
        }

    def _statement_parts(self, parts: dict[str, str]) -> dict[str, str]:
        """What the statement form fills the outer part of the function with."""

        def gate(rows: str) -> str:
            table = {
                part: _filled(sql(f"trigger_{part}"), rows=rows, **parts) if self.inserts else ""
                for part in ("or_table", "table")
            }
            return _filled(sql("trigger_gate"), rows=rows, **parts, **table)

        def keys(rows: str) -> str:
            own = f"SELECT {parts['old_key']} FROM {rows} AS o LIMIT {KEYS_PER_TRANSACTION + 1}"
            any_row = f"(SELECT FROM {rows} AS o LIMIT 1) AS o"
            table = f"SELECT {_WHOLE_TABLE} FROM {any_row} UNION ALL "
            return f"ARRAY({table}({own}))" if self.inserts else f"ARRAY({own})"

        gates, updated = gate("old_rows"), ""
        if self.inserts:
            gates = _filled(sql("trigger_gates"), gate=gates, gate_of_both=gate(_BOTH))
            updated = _filled(sql("trigger_updated"), both_keys=keys(_BOTH))
        body = sql("trigger_statement").replace("$query$", unused_quote("$query$", self.key))
        return {
            "root": "TG_RELID",
            "updated": updated,
            "all_keys": keys("old_rows"),
            # Never used: PostgreSQL plans the queries of a statement again when its table changes.
            "retyped_keys": quote_literal(_NO_KEYS),
            "body": _filled(body, gates=gates, **parts),
        }


def _registered(key: str) -> str:
    """The probe: the registrations of the row with this key hash, which is given as SQL."""
    return (
        "SELECT r.listener, r.key_hash, r.columns FROM rowbell.registration AS r "
        f"WHERE r.table_oid = root AND r.key_hash = {key} OFFSET 0"
    )


def _filled(template: str, **parts: str) -> str:
    """A file in the folder ``sql`` with its @parts@ filled in, in one pass: names may contain @."""
    return re.sub(r"@(\w+)@", lambda part: parts[part[1]], template)


def unused_quote(quote: str, key: tuple[KeyColumn, ...]) -> str:
    """A dollar quote that no column name contains."""
    while any(quote in column.name for column in key):
        quote = f"{quote[:-1]}_$"
    return quote
