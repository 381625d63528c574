"""JSON lines: the log of each process. The times of all processes can be compared.

Times come from ``time.monotonic()``, which is one clock for the whole system on Linux.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Record: TypeAlias = dict[str, Any]
"""One line. ``kind`` says what it describes."""

_FLUSH: Final = 1.0
"""How often the log is flushed, in seconds."""


class Log:
    """A file that one process appends to.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1 << 20)
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, kind: str, **facts: Any) -> None:
        """Append a record."""
        self._file.write(json.dumps({"kind": kind, **facts}, separators=(",", ":")) + "\n")
        now = time.monotonic()
        if now > self._flushed + _FLUSH:
            self._file.flush()
            self._flushed = now


def records(directory: Path) -> Iterator[Record]:
    """All records of a run, file by file."""
    for path in sorted(directory.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):  # a killed process may leave an incomplete line
                    yield json.loads(line)


class Tally:
    """The number of records of each kind so far, for lines of progress.

    Args:
        directory: The directory of the logs.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._counts = Counter[str]()

    def look(self) -> Counter[str]:
        """Read and count the new records."""
        for path in self._directory.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().split(b"\n")
            self._read[path] = self._read.get(path, 0) + sum(len(line) + 1 for line in lines[:-1])
            for line in lines[:-1]:
                self._counts[line[9 : line.index(b'"', 9)].decode()] += 1
        return self._counts
