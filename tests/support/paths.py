"""Where the repository and its tests stand."""

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
"""With which a process of a test's own imports what the test imports."""
