"""The aim of a planned wait, as arguments for rowbell and as facts for the oracle."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tables import MODELS, Stamped

if TYPE_CHECKING:
    import plan


def request(operation: plan.Wait, known: Stamped | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts that the oracle needs about a wait, and the arguments of the call."""
    model, aim = MODELS[operation.table], operation.aim
    declared = operation.table == "jobs"
    column = "mark" if declared or aim == "columns" or operation.key % 3 == 0 else "version"
    arguments: dict[str, Any] = {"timeout": operation.timeout, "interval": operation.interval}
    facts: dict[str, Any] = {"column": column, "since": None, "until": None}
    if known is None and not aim.startswith("third"):
        aim = "plain"
    if column == "mark" and not (declared and aim in {"plain", "since instance"}):
        arguments["columns"] = ["mark"] if operation.key % 2 else [model.mark]
    if known is None or aim in {"plain", "columns"}:
        value = None
    else:
        value = known.mark if column == "mark" else known.version
    if aim == "since mapping":
        facts["since"], arguments["since"] = value, {column: value}
    elif aim == "since instance":
        facts["since"], arguments["since"] = value, known
    elif aim.startswith("until") and value is not None:
        facts["until"] = value
        above: int = value
        if aim == "until expression":
            arguments["until"] = getattr(model, column) > above
        else:
            arguments["until"] = partial(_is_above, column, above)
    elif aim.startswith("third"):
        facts["until"] = "third"
        arguments.pop("columns", None)
        arguments["until"] = model.n % 3 == 0 if aim == "third expression" else _is_third
    return facts, arguments


def _is_above(column: str, above: int, row: Stamped) -> bool:
    value: int = getattr(row, column)
    return value > above


def _is_third(row: Stamped) -> bool:
    return row.n % 3 == 0
