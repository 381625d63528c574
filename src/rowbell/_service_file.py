"""libpq's service file: connection parameters under a name (PostgreSQL manual, 34.17).

It is read as libpq reads it (``parseServiceFile``), because a line that is understood in another
way could weaken the connection. ``configparser`` would continue indented lines, and add ``DEFAULT``
to every section.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ServiceFileError(Exception):
    """A line of a service that libpq refuses. The message does not quote it: it may be secret."""


def read_service(name: str, file: str | None = None) -> dict[str, str] | None:
    """The parameters of a service. The user's file comes before the system's.

    Args:
        name: The service.
        file: The user's file; without it ``~/.pg_service.conf``.

    Returns:
        The parameters, or ``None`` if no file has the service.

    Raises:
        ServiceFileError: A line of the service has no ``=``, or names another service.
    """
    for path in _files(file):
        if path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape") as lines:
                found = _section(name, lines, path)
            if found is not None:
                return found
    return None


def _files(file: str | None) -> Iterator[Path]:
    yield Path(file) if file else Path.home() / ".pg_service.conf"
    if directory := os.environ.get("PGSYSCONFDIR"):
        yield Path(directory) / "pg_service.conf"


def _section(name: str, lines: Iterator[str], path: Path) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    for number, text in enumerate(lines, 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:  # the next service
                return found
            found = {} if line.startswith(f"[{name}]") else None
        elif found is not None:
            key, equals, value = line.partition("=")
            if not equals or key in {"service", "servicefile"}:
                raise ServiceFileError(f"line {number} of {path} is not a parameter")
            found.setdefault(key, value)
    return found
