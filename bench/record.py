"""The saved results of a part: its numbers, and the run that measured them.

Each part has a JSON file in ``bench/numbers``. The page and the plots are made from these files. So
one part can be measured alone, and the page can be changed without measuring.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypedDict

NUMBERS = Path(__file__).parent / "numbers"


class Run(TypedDict):
    """The date and the system of a measurement."""

    date: str
    machine: str
    server: str
    packages: str


class Record(TypedDict):
    """The run and the numbers. Each part defines the structure of its numbers."""

    run: Run
    numbers: Any


def save(part: str, record: Record, folder: Path = NUMBERS) -> None:
    """Save a part's record. It replaces the previous one."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / f"{part}.json").write_text(_on_one_line(text) + "\n")


def load(part: str, folder: Path = NUMBERS) -> Record | None:
    """The record of a part, or ``None`` if the part was never measured."""
    path = folder / f"{part}.json"
    if not path.exists():
        return None
    record: Record = json.loads(path.read_text())
    return record


def _on_one_line(text: str) -> str:
    """Put short innermost objects and lists of the JSON on one line each."""

    def join(found: re.Match[str]) -> str:
        line = re.sub(r"(?<=[{[])\s+|\s+(?=[]}])", "", found[0])
        line = re.sub(r"\s+", " ", line)
        return line if len(line) <= 150 else found[0]

    return re.sub(r"\{[^{}]*\}|\[[^][{}]*\]", join, text)
