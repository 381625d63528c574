"""Whether two values differ, as SQL's ``IS DISTINCT FROM`` defines it.

The values are those of one column in two reads, in the form of its type (``forms``). SQLAlchemy's
types have not converted them to objects: the ``__eq__`` of an object may compare identities, or be
missing.
"""

from __future__ import annotations

import math
import pickle
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNSEEN: Final = object()
"""Represents a value that was not read yet. It is not distinct from any value."""

_EXACT: Final = frozenset({int, str, bytes, bool, UUID, datetime, date, time, timedelta})
"""The types for which two values are distinct exactly if they are not equal."""


def rows_differ(
    before: Sequence[Any],
    after: Sequence[Any],
    rules: Sequence[Callable[[Any, Any], bool] | None],
) -> bool:
    """Whether any values of two rows are distinct.

    Args:
        before: The values of one row.
        after: The values of the other row.
        rules: For each column, whether two values that are not equal in Python are distinct;
            ``None`` means that they are.
    """
    for old, new, rule in zip(before, after, rules, strict=True):
        if old is new or old is UNSEEN:
            continue
        kind = type(old)
        if kind in _EXACT and kind is type(new) and old == new:
            continue
        if rule is None or old is None or new is None:
            if is_distinct(old, new):
                return True
        elif rule(old, new):
            return True
    return False


def is_distinct(before: object, after: object) -> bool:  # noqa: PLR0911  # one a rule
    """Whether two values of one column are distinct.

    NULL equals NULL and NaN equals NaN, as in PostgreSQL ("Floating-Point Types": NaN values
    are treated as equal). The lists and dicts of JSON are compared by value; ``true`` and 1 are
    distinct.
    """
    if before is None or after is None:
        return before is not after
    if isinstance(before, bool) != isinstance(after, bool):
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return _dicts_differ(
            cast("dict[object, object]", before), cast("dict[object, object]", after)
        )
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        ours, theirs = cast("list[object]", before), cast("list[object]", after)
        return len(ours) != len(theirs) or any(map(is_distinct, ours, theirs))
    if _is_nan(before) or _is_nan(after):
        return _is_nan(before) != _is_nan(after)
    try:
        return bool(before != after)
    except Exception:  # noqa: BLE001  # a codec of the user may return anything, such as an array
        return pickle.dumps(before) != pickle.dumps(after)


def _dicts_differ(before: dict[object, object], after: dict[object, object]) -> bool:
    return before.keys() != after.keys() or any(
        is_distinct(value, after[key]) for key, value in before.items()
    )


def _is_nan(value: object) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (
        isinstance(value, Decimal) and value.is_nan()
    )
