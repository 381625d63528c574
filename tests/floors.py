"""Print the oldest supported version of each dependency, as requirements for pip.

::

    python -m pip install $(python tests/floors.py)
"""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
_PINNED_TOO = re.compile("aiosqlite|opentelemetry")
_AT_LEAST = re.compile(r"([\w.-]+(?:\[[\w,]+\])?)>=([\w.]+)")


def floors() -> dict[str, str]:
    """The lowest version of each dependency, of the extras, and of some that only tests use."""
    project = tomllib.loads(PYPROJECT.read_text())
    extras = itertools.chain(*project["project"]["optional-dependencies"].values())
    tested = [r for r in project["dependency-groups"]["test"] if _PINNED_TOO.match(str(r))]
    found: dict[str, str] = {}
    for requirement in [*project["project"]["dependencies"], *extras, *tested]:
        match = _AT_LEAST.match(requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} names no lowest version")
        found[match[1]] = match[2]
    return found


if __name__ == "__main__":
    print(*(f"{name}=={version}" for name, version in floors().items()))
