"""libpq's service file: connection parameters under a name (PostgreSQL manual, 34.17)."""

from __future__ import annotations

import os
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_service(name: str, file: str | None = None) -> dict[str, str] | None:
    """The parameters of a service; those of the user's file win over the system's as a whole.

    Args:
        name: The service.
        file: The user's file; without it ``~/.pg_service.conf``.

    Returns:
        The parameters, or ``None`` where no file has the service.
    """
    for path in _files(file):
        # libpq knows no interpolation, and only "=" between a name and its value.
        parser = ConfigParser(
            interpolation=None, delimiters=("=",), comment_prefixes=("#",), allow_no_value=True
        )
        parser.read(path, encoding="utf-8")
        if parser.has_section(name):
            return {key: value or "" for key, value in parser.items(name)}
    return None


def _files(file: str | None) -> Iterator[Path]:
    yield Path(file) if file else Path.home() / ".pg_service.conf"
    if directory := os.environ.get("PGSYSCONFDIR"):
        yield Path(directory) / "pg_service.conf"
