"""Rounds in which all compared things are measured in random order."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


def turns(part: str, compared: Collection[T], rounds: int) -> Iterator[tuple[int, T]]:
    """The number of each round, with each compared thing once, in random order."""
    for number in range(rounds):
        for one in random.sample(list(compared), len(compared)):
            progress(f"{part}: round {number + 1} of {rounds}, {one}")
            yield number, one


def progress(text: str) -> None:
    """Show what is being measured, in one line. The next line overwrites it."""
    print(text, end="\033[K\r", flush=True)
