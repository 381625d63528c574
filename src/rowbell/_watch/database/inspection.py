"""The triggers of a table in the catalog, compared with those that it should have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from rowbell._watch.database.schema import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row

    from rowbell._watch.database.schema import SchemaStatus
    from rowbell._watch.database.triggers import TableTriggers


class TriggerState(StrEnum):
    """The state of a table's triggers."""

    INSTALLED = "installed"
    """The triggers have this version and these options, and are enabled."""
    OUTDATED = "outdated"
    """The triggers have another version or other options."""
    DISABLED = "disabled"
    """At least one trigger was disabled by ``ALTER TABLE … DISABLE TRIGGER``."""
    MISSING = "missing"
    """At least one trigger does not exist."""
    UNTRUSTED = "untrusted"
    """The triggers run code that is owned, or may be created, by a role that cannot change the
    table itself."""


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """What ``trigger_status()`` found on one table.

    Attributes:
        schema: The table's schema; ``None`` if the ``search_path`` decides.
        table: The table's name.
        state: The state of its triggers.
    """

    schema: str | None
    table: str
    state: TriggerState


@dataclass(frozen=True, slots=True)
class Found:
    """The triggers that were found on a table.

    Attributes:
        state: Their state, compared with the triggers that the table should have.
        disabled: The names of the triggers that are disabled.
        superfluous: The names of the triggers that the table should not have.
    """

    state: TriggerState
    disabled: tuple[str, ...]
    superfluous: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removable:
    """What must be known to remove the triggers of a table.

    Attributes:
        functions: The oids of the functions that its triggers run.
        of_another: Whether it is a partition that has them from its partitioned table.
    """

    functions: tuple[int, ...]
    of_another: bool


_TRIGGERS = text(
    "SELECT t.oid AS trigger, t.tgparentid <> 0::oid AS is_clone, t.tgname, t.tgtype::integer,"
    " t.tgenabled::text, t.tgargs,"
    " f.oid, f.prosrc, f.prosecdef, l.lanname,"
    " coalesce(f.proconfig, '{}') AS settings,"
    " pg_has_role(f.proowner, c.relowner, 'MEMBER')"
    " OR pg_has_role(f.proowner, current_user, 'MEMBER') AS trusted"
    " FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid"
    " JOIN pg_language AS l ON l.oid = f.prolang JOIN pg_class AS c ON c.oid = t.tgrelid"
    " WHERE t.tgrelid = :table AND t.tgname IN ('rowbell_update', 'rowbell_delete',"
    " 'rowbell_truncate', 'rowbell_insert') ORDER BY t.tgname"
)
_IS_INTACT = text("SELECT rowbell.is_intact(:trigger, CAST(:options AS bytea))")
_FUNCTIONS = text(
    "SELECT f.oid::regproc::text AS name, pg_has_role(f.proowner, 'USAGE') AS mine,"
    " EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = f.oid) AS used"
    " FROM pg_proc AS f WHERE f.oid = ANY(CAST(:functions AS oid[]))"
    " AND f.proname ~ '^(rowbell_)?changed_[0-9a-f]{16}$' ORDER BY f.oid"
)


def inspect_triggers(
    connection: Connection,
    triggers: TableTriggers,
    schema: SchemaStatus,
    *,
    is_trusted: bool = True,
) -> Found:
    """The triggers of a table, compared with those that it should have.

    Args:
        connection: A connection to PostgreSQL.
        triggers: The triggers that it should have.
        schema: The status of the schema ``rowbell``.
        is_trusted: Whether functions of that schema may be called.
    """
    rows = connection.execute(_TRIGGERS, {"table": triggers.oid}).all()
    function = triggers.function
    argument = triggers.options.encode() + b"\0"
    enabled = "A" if triggers.replicated else "O"
    intact = (
        is_trusted
        and schema.is_usable
        and all(
            connection.scalar(_IS_INTACT, {"trigger": row.trigger, "options": argument[:-1]})
            for row in rows
        )
    )
    right = intact and all(
        row.prosrc == function.source
        and settings(row.settings) == settings(function.settings)
        and not row.prosecdef
        and row.lanname == "plpgsql"
        and bytes(row.tgargs) == argument
        and row.tgtype == triggers.types.get(row.tgname)
        and row.tgenabled in {enabled, "D"}
        for row in rows
    )
    names, wanted = {row.tgname for row in rows}, set(triggers.types)
    if wanted - names:
        state = TriggerState.MISSING
    elif not all(row.trusted for row in rows):
        state = TriggerState.UNTRUSTED
    elif not right:
        state = TriggerState.OUTDATED
    elif any(row.tgenabled == "D" for row in rows):
        state = TriggerState.DISABLED
    else:
        state = TriggerState.INSTALLED
    disabled = tuple(row.tgname for row in rows if row.tgenabled == "D" and row.tgname in wanted)
    return Found(state, disabled, tuple(sorted(names - wanted)))


def removable(connection: Connection, table: int | None) -> Removable:
    """The triggers of a table that may be in any state."""
    rows = connection.execute(_TRIGGERS, {"table": table}).all()
    functions = tuple(sorted({row.oid for row in rows}))
    return Removable(functions, any(row.is_clone for row in rows))


def functions_of(connection: Connection, oids: Iterable[int]) -> Sequence[Row[Any]]:
    """Trigger functions by name, whether the current role owns them, and whether any trigger runs
    them.
    """
    return connection.execute(_FUNCTIONS, {"functions": list(oids)}).all()
