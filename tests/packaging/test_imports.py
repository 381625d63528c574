"""What ``import rowbell`` takes: which packages it brings along, and how long."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys

IMPORTED = """
import json, sys
before = set(sys.modules)
import rowbell
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""
COMPILED = re.compile("cython|^_sysconfigdata|mypyc$")
"""Modules that compiled packages, and the standard library, make at run time."""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def test_it_imports_its_three_dependencies_and_theirs_only() -> None:
    """No FastAPI, Alembic, pytest, psycopg, OpenTelemetry: who needs one imports its module."""
    found = {
        name for name in json.loads(python("-c", IMPORTED).stdout) if not COMPILED.search(name)
    }
    assert found == {"rowbell", "sqlalchemy", "greenlet", "asyncpg", "anyio", "typing_extensions"}


def share_of_its_own() -> float:
    """The part of the import's time that is spent in rowbell's own modules."""
    line = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")
    times = line.findall(python("-X", "importtime", "-c", "import rowbell").stderr)
    own = sum(int(time) for time, name in times if name.partition(".")[0] == "rowbell")
    return own / sum(int(time) for time, _ in times)


def test_most_of_an_import_is_the_dependencies() -> None:
    """Its own modules take a sixth; a third would be a defect."""
    assert statistics.median(share_of_its_own() for _ in range(5)) < 1 / 3
