"""The arguments that all waits take in addition to the row."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from sqlalchemy.orm import QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._watch.until import Until

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


class WaitArguments(TypedDict, total=False):
    """How to wait for a row.

    Attributes:
        columns: The columns to watch, as names or mapped attributes. The default is the columns
            that the model declares (``@watched(columns=…)``), or else all mapped columns,
            including those of the row's own subclass. With ``until``, a change of these columns
            makes the wait evaluate ``until`` again.
        interval: The polling interval while nothing notifies, in seconds (default 0.5) or as a
            ``timedelta``. A function ``until`` is also called again at this interval.
        timeout: How long to wait, in seconds or as a ``timedelta``; ``None`` (the default) means
            without limit.
        until: End the wait when this condition holds, not at any change; at once if it already
            holds. A plain function of an instance (loaded with ``options``, belonging to no
            session), or an SQL expression on the model's columns. An expression that may change
            while the row does not, for example with ``now()``, is polled.
        since: What the caller last saw: an instance, or values by attribute. If the row already
            differs from it, the wait ends at once.
        options: Loader options for the returned instance.
    """

    columns: Sequence[str | QueryableAttribute[Any]] | None
    interval: float | timedelta
    timeout: float | timedelta | None
    until: Until | None
    since: Any
    options: Sequence[ORMOption]


DEFAULTS: Final[Mapping[str, Any]] = {
    "columns": None,
    "interval": 0.5,
    "timeout": None,
    "until": None,
    "since": None,
    "options": (),
}


def complete_arguments(arguments: WaitArguments) -> dict[str, Any]:
    """The arguments that a caller gives, and the defaults of the others.

    Raises:
        TypeError: An argument has an unknown name.
    """
    for name in arguments:
        if name not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise TypeError(f"a wait has no argument {name!r}: it takes {known}")
    return {**DEFAULTS, **arguments}


def takes_wait_arguments(function: FunctionT) -> FunctionT:
    """Show the arguments of a wait in the signature of a function that takes them."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=DEFAULTS[name],
            annotation=annotation,
        )
        for name, annotation in WaitArguments.__annotations__.items()
    ]
    shown: Any = function
    shown.__signature__ = signature.replace(parameters=[*own, *added])
    return function
