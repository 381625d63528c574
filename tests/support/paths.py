"""The paths of the repository and its tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import rowbell

TESTS: Final = Path(__file__).parents[1]
ROOT: Final = TESTS.parent
PYTHONPATH: Final = os.pathsep.join(
    str(path) for path in (TESTS, Path(rowbell.__file__).parents[1])
)
"""With this, another process imports the same modules as the test."""


def names_in(folder: Path) -> list[str]:
    """The names of what is in a folder."""
    return [path.name for path in folder.iterdir()]
