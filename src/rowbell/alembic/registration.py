"""Registers rowbell's operations, their rendering and the comparison with Alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic import util
from alembic.autogenerate import comparators, renderers
from alembic.operations import Operations

from rowbell.alembic.comparison import compare_triggers
from rowbell.alembic.execution import create, drop, upgrade
from rowbell.alembic.operations import (
    ChangeKeyOp,
    CreateRowTriggersOp,
    DropRowTriggersOp,
    ReplaceRowTriggersOp,
    RowTriggersOp,
    UpgradeRowTriggersOp,
)
from rowbell.alembic.refusals import explain_refusals
from rowbell.alembic.rendering import render, render_key_change, render_upgrade

if TYPE_CHECKING:
    from collections.abc import Callable


def register() -> None:
    """Register rowbell with Alembic: the operations, their rendering, and autogenerate.

    With ``include_schemas=True``, ``--autogenerate`` then ignores the schema ``rowbell``.

    Call it in ``env.py``; it may be called repeatedly. It is not automatic, because an
    ``alembic.plugins`` entry point makes some releases of Alembic fail at import.
    """
    if hasattr(Operations, "create_row_triggers"):
        return
    named: dict[str, tuple[type[RowTriggersOp], Callable[..., None]]] = {
        "create_row_triggers": (CreateRowTriggersOp, create),
        "replace_row_triggers": (ReplaceRowTriggersOp, create),
        "drop_row_triggers": (DropRowTriggersOp, drop),
    }
    for name, (operation, run) in named.items():
        Operations.register_operation(name, "invoke")(operation)
        Operations.implementation_for(operation)(run)
        renderers.dispatch_for(operation)(render)
    Operations.register_operation("upgrade_row_triggers", "invoke")(UpgradeRowTriggersOp)
    Operations.implementation_for(UpgradeRowTriggersOp)(upgrade)
    renderers.dispatch_for(UpgradeRowTriggersOp)(render_upgrade)
    renderers.dispatch_for(ChangeKeyOp)(render_key_change)
    # After all other comparators. Before Alembic 1.18, those of all dialects are the last anyway.
    priority = getattr(util, "DispatchPriority", None)
    last: dict[str, Any] = {} if priority is None else {"priority": priority.LAST}
    comparators.dispatch_for("schema", **last)(compare_triggers)
    explain_refusals()
