"""How the operations are written into a migration: with their options, without any SQL.

Names may come from a catalog that others write to, so they are written as Python literals only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowbell.alembic.operations import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

    from rowbell.alembic.operations import ChangeKeyOp, RowTriggersOp, UpgradeRowTriggersOp

_DEFAULTS = {
    "schema": None,
    "for_each": None,
    "replicated": False,
    "columns": None,
    "inserts": False,
    "lock_timeout": DEFAULT_LOCK_TIMEOUT,
}


def render(context: AutogenContext, operation: RowTriggersOp) -> str:
    """The call of an operation in a migration, with every option that is not the default."""
    given = {"key": operation.key} | {
        name: value
        for name, default in _DEFAULTS.items()
        if (value := getattr(operation, name)) != default
    }
    prefix = context.opts["alembic_module_prefix"] or ""
    arguments = [_literal(operation.table_name)]
    arguments += [f"{name}={_literal(value)}" for name, value in given.items()]
    return f"{prefix}{operation.name}({', '.join(arguments)})"


def _literal(value: object) -> str:
    return repr(str(value)) if isinstance(value, str) else repr(value)


def render_upgrade(context: AutogenContext, operation: UpgradeRowTriggersOp) -> str:
    """The call of ``op.upgrade_row_triggers()``, which autogenerate does not write by itself."""
    timeout = operation.lock_timeout
    given = "" if timeout == DEFAULT_LOCK_TIMEOUT else f"lock_timeout={_literal(timeout)}"
    return f"{context.opts['alembic_module_prefix'] or ''}upgrade_row_triggers({given})"


def render_key_change(_: AutogenContext, operation: ChangeKeyOp) -> str:
    """The comment."""
    where = "" if operation.schema is None else f" in the schema {_literal(operation.schema)}"
    return (
        f"# Change the primary key of {_literal(operation.table_name)}{where} here,"
        f" from {operation.before} to {operation.after}:\n"
        "# Alembic does not write this."
    )
