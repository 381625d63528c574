"""What is kept of a part that was measured: its numbers, and the run that measured them.

Each part has a JSON file in ``bench/numbers``. The page and the plots are made from these files,
so that a part can be measured alone, and the page changed without measuring.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypedDict

NUMBERS = Path(__file__).parent / "numbers"


class Run(TypedDict):
    """When and on what a part was measured."""

    date: str
    machine: str
    server: str
    packages: str


class Record(TypedDict):
    """The run and the numbers; their shape is the part's."""

    run: Run
    numbers: Any


def save(part: str, record: Record, folder: Path = NUMBERS) -> None:
    """Keep a part's record, in place of the one before."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / f"{part}.json").write_text(_on_one_line(text) + "\n")


def load(part: str, folder: Path = NUMBERS) -> Record | None:
    """A part's record, if the part has been measured."""
    path = folder / f"{part}.json"
    if not path.exists():
        return None
    record: Record = json.loads(path.read_text())
    return record


def _on_one_line(text: str) -> str:
    """JSON in which the innermost objects and lists take one line each, where that is short."""

    def join(found: re.Match[str]) -> str:
        line = re.sub(r"(?<=[{[])\s+|\s+(?=[]}])", "", found[0])
        line = re.sub(r"\s+", " ", line)
        return line if len(line) <= 150 else found[0]

    return re.sub(r"\{[^{}]*\}|\[[^][{}]*\]", join, text)
