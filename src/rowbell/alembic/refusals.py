"""Explains the error of PostgreSQL if a column cannot be changed because a trigger depends on it.

The error stays what it is for code that catches it. It says more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.exc import StatementError

from rowbell._sqlstate import DEPENDENT_OBJECTS_STILL_EXIST, FEATURE_NOT_SUPPORTED, has_sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

_TRIGGER: Final = re.compile(r"\browbell_update\b")
"""The only one of the triggers whose ``WHEN`` names columns, as the server's detail names it."""

_ALTERS: Final = re.compile(r"\bALTER\s+TABLE\b.*\b(ALTER|DROP)\b", re.IGNORECASE | re.DOTALL)

_EXPLANATION: Final = (
    "rowbell: a trigger depends on the column. Call op.drop_row_triggers() with the same key and "
    "columns before this operation, and op.create_row_triggers() after it. Waits are polled "
    "meanwhile and lose nothing. {detail}"
)


def explain_refusals() -> None:
    """Explain such errors from now on, whichever engine a migration uses."""
    event.listen(Engine, "handle_error", _explain)


def _explain(context: ExceptionContext) -> None:
    error, shown = context.original_exception, context.sqlalchemy_exception
    if (
        isinstance(shown, StatementError)
        and has_sqlstate(error, FEATURE_NOT_SUPPORTED, DEPENDENT_OBJECTS_STILL_EXIST)
        and _ALTERS.search(context.statement or "")
        and _TRIGGER.search(detail := _detail(error))
    ):
        shown.add_detail(_EXPLANATION.format(detail=detail))


def _detail(error: BaseException) -> str:
    """What the server says in detail: psycopg and asyncpg keep it in different places."""
    driver: Any = error.__cause__ or error
    found = getattr(driver, "detail", None)
    return str(found or getattr(getattr(driver, "diag", None), "message_detail", None) or "")
