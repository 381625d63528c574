"""All statements that install the triggers of one table, for ``--sql`` and other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowbell._identifiers import quote_literal
from rowbell._watch.database.ddl import pinned
from rowbell._watch.database.schema import SCHEMA, schema_statements
from rowbell._watch.database.triggers import announcement
from rowbell._watch.database.trust import refuse_untrusted_owners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowbell._watch.database.triggers import TableTriggers


def create_script(triggers: TableTriggers, superfluous: Sequence[str] = ()) -> list[str]:
    """The statements. Each is safe to repeat.

    Without a database, the table's schema may be unknown. So statements that name the table run
    with the user's ``search_path``, and qualify every operator and function.

    Args:
        triggers: The triggers.
        superfluous: Triggers that may exist, and should not.
    """
    create = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
    mode = "ACCESS EXCLUSIVE" if superfluous else "SHARE ROW EXCLUSIVE"
    return [
        *pinned([create, *schema_statements(), *triggers.create_function()]),
        triggers.check_key(),
        f"LOCK TABLE {triggers.name} IN {mode} MODE",
        *(f"DROP TRIGGER IF EXISTS {name} ON {triggers.name}" for name in superfluous),
        *triggers.create_triggers(),
        announcement(triggers.name),
        *refuse_untrusted_owners(quote_literal(triggers.name)),
    ]
