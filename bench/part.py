"""A part of the benchmark: how it is measured, described and drawn."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import URL

from section import Section

N = TypeVar("N")
N_co = TypeVar("N_co", covariant=True)


class Measure(Protocol[N_co]):
    """Measures on the server with that URL. ``quick`` is too short for published numbers."""

    def __call__(self, url: URL, *, quick: bool) -> Coroutine[Any, Any, N_co]: ...


@dataclass(frozen=True)
class Part(Generic[N]):
    """One part.

    Attributes:
        name: Its name on the command line and in files.
        measure: Gives its numbers, which can be written as JSON.
        section: The section that says them.
        draw: Draws them on matplotlib's Figure, if the part has a plot.
    """

    name: str
    measure: Measure[N]
    section: Callable[[N], Section]
    draw: Callable[[Any, N], None] | None = None
