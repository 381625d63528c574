"""Another process that commits changes."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

from sqlalchemy import URL

from table import libpq_url

SCRIPT = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], prepare_threshold=0)
print(flush=True)
for line in sys.stdin:
    table, key, delay = line.split()
    time.sleep(float(delay))
    connection.execute(f"UPDATE {table} SET n = n + 1 WHERE id = %s", (int(key),))
    connection.commit()
    print(time.monotonic_ns(), flush=True)
"""


class WriterProcess:
    """A process that commits a change after a delay, and reports the time of the commit."""

    def __init__(self, url: URL) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", SCRIPT, libpq_url(url)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, table: str, key: int, delay: float) -> None:
        """Ask for a change of that row after a delay in seconds."""
        assert self._process.stdin
        self._process.stdin.write(f"{table} {key} {delay}\n")
        self._process.stdin.flush()

    def since_commit(self, now: int) -> float:
        """The milliseconds from the last commit until ``now``, which is in nanoseconds."""
        return (now - int(self._line())) / 1e6

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()
