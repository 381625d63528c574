"""Rounds in which everything that is compared takes its turn, in random order."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


def turns(part: str, compared: Collection[T], rounds: int) -> Iterator[tuple[int, T]]:
    """The number of each round, with each of those compared once, in random order."""
    for number in range(rounds):
        for one in random.sample(list(compared), len(compared)):
            progress(f"{part}: round {number + 1} of {rounds}, {one}")
            yield number, one


def progress(text: str) -> None:
    """Say what is being measured, in one line that the next overwrites."""
    print(text, end="\033[K\r", flush=True)
