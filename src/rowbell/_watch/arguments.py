"""The arguments that waits and follows take in addition to the row."""

from __future__ import annotations

import inspect
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from sqlalchemy.orm import QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._watch.until import Until


class Missing(StrEnum):
    """What a row that does not exist means."""

    RAISE = "raise"
    WAIT = "wait"


class Absent(Enum):
    """The type of ``rowbell.ABSENT``."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "rowbell.ABSENT"


ABSENT: Final = Absent.ABSENT
"""As ``since=``: the caller has seen that the row does not exist."""

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


class FollowArguments(TypedDict, total=False):
    """How to follow a row.

    Attributes:
        columns: The columns to watch, as names or mapped attributes. The default is the columns
            that the model declares (``@watched(columns=…)``), or else all mapped columns,
            including those of the row's own subclass.
        interval: The polling interval while nothing notifies, in seconds (default 0.5) or as a
            ``timedelta``. A function ``until`` is also called again at this interval.
        until: The first state for which this condition holds is the last one. A plain function of
            an instance (loaded with ``options``, belonging to no session), or an SQL expression on
            the model's columns. If it holds for ``since``, and the row still equals it, nothing is
            yielded.
        since: What the caller last saw: an instance, or values by attribute. The first state
            differs from it. Without it, the first state is the row as it is.
        missing: What a row that does not exist means. ``"raise"`` (the default): an error at first,
            and the end after a deletion. ``"wait"``: wait until it appears, which is a new state.
        options: Loader options for the instances.
    """

    columns: Sequence[str | QueryableAttribute[Any]] | None
    interval: float | timedelta
    until: Until | None
    since: Any
    missing: Missing | str
    options: Sequence[ORMOption]


class ManyArguments(TypedDict, total=False):
    """How to follow many rows.

    Attributes:
        columns: The columns to watch, as for ``FollowArguments``.
        interval: The polling interval while nothing notifies, in seconds (default 0.5) or as a
            ``timedelta``.
        until: The first state of a row for which this condition holds is its last one; then the
            row is not followed any more. When no row is left, the iteration ends.
        options: Loader options for the instances.
    """

    columns: Sequence[str | QueryableAttribute[Any]] | None
    interval: float | timedelta
    until: Until | None
    options: Sequence[ORMOption]


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
            differs from it, the wait ends at once. ``rowbell.ABSENT``: the row did not exist.
        missing: What a row that does not exist means. ``"raise"`` (the default): an error.
            ``"wait"``: wait until it appears; the appearance is the change. With neither ``since``
            nor ``until``, a row that exists ends the wait at once.
        options: Loader options for the returned instance.
    """

    columns: Sequence[str | QueryableAttribute[Any]] | None
    interval: float | timedelta
    timeout: float | timedelta | None
    until: Until | None
    since: Any
    missing: Missing | str
    options: Sequence[ORMOption]


DEFAULTS: Final[Mapping[str, Any]] = {
    "columns": None,
    "interval": 0.5,
    "timeout": None,
    "until": None,
    "since": None,
    "missing": "raise",
    "options": (),
}


_WHAT: Final[Mapping[type[Any], str]] = {
    WaitArguments: "a wait",
    FollowArguments: "a follow",
    ManyArguments: "a follow of many rows",
}


def complete_arguments(arguments: Mapping[str, Any], known: type[Any]) -> dict[str, Any]:
    """The arguments that a caller gives, and the defaults of the others.

    Args:
        arguments: What the caller gives.
        known: The class of all arguments that there are.

    Raises:
        TypeError: An argument has an unknown name.
    """
    names = known.__annotations__
    for name in arguments:
        if name not in names:
            raise TypeError(f"{_WHAT[known]} has no argument {name!r}: it takes {', '.join(names)}")
    missing = Missing.WAIT if known is ManyArguments else Missing.RAISE
    return {**DEFAULTS, "missing": missing, **arguments}


def takes(known: type) -> Callable[[FunctionT], FunctionT]:
    """Show arguments in the signature of a function that takes them as keywords."""

    def shown(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=DEFAULTS[name], annotation=annotation)
            for name, annotation in known.__annotations__.items()
        ]
        changed: Any = function
        changed.__signature__ = signature.replace(parameters=[*own, *added])
        return function

    return shown
