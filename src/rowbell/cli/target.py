"""Which database, and which models: options, environment, and pyproject.toml, in this order."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Table, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rowbell._urls import url_for
from rowbell._watch.database.tables import is_declared
from rowbell.cli.problem import ProblemError, told_in_one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_CONNECT_SECONDS: Final = 10


@dataclass(frozen=True)
class Target:
    """What a command works on.

    Attributes:
        url: The database, for psycopg, which is libpq: what the URL leaves out comes from its
            variables (``PGSERVICE``, ``PGHOST``, …) and its password file.
        models: The tables that models declare to be watched; ``None`` without models.
    """

    url: URL
    models: list[Table] | None

    @classmethod
    def of(cls, url: str | None, models: str | None) -> Target:
        """The target of a command's options.

        Raises:
            ProblemError: The URL or the models are unusable.
        """
        configured = _configured()
        if "" in {url, models}:
            raise ProblemError("--url or --models is empty: a variable may not be set")
        named = os.environ.get("DATABASE_URL") or configured.get("url") if url is None else url
        declared = configured.get("models") if models is None else models
        return cls(
            _url(str(named or "postgresql://")), _tables(str(declared)) if declared else None
        )

    @asynccontextmanager
    async def engine(self) -> AsyncGenerator[AsyncEngine]:
        """An engine without a pool.

        Raises:
            ProblemError: The block has failed for a reason that the user can mend.
        """
        arguments = {"connect_timeout": _CONNECT_SECONDS, "application_name": "rowbell"}
        # The query for hstore would run with the search_path of the user.
        engine = create_async_engine(
            self.url, poolclass=NullPool, connect_args=arguments, use_native_hstore=False
        )
        try:
            with told_in_one_line():
                yield engine
        finally:
            await engine.dispose()


def _url(named: str) -> URL:
    try:
        url = make_url(named)
    except (ArgumentError, ValueError):
        raise ProblemError("the URL cannot be read: postgresql://user@host/database") from None
    if "@" in (url.host or ""):
        raise ProblemError("the URL has several @: write one in a password as %40")
    with told_in_one_line():
        return url_for("psycopg", url)


def _configured() -> dict[str, Any]:
    """``[tool.rowbell]`` of the nearest pyproject.toml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            try:
                found = tomllib.loads(file.read_text(encoding="utf-8"))
                tool: Any = found.get("tool", {}).get("rowbell", {})
            except (OSError, ValueError, AttributeError) as error:
                raise ProblemError(f"{file} cannot be read: {error}") from error
            if not isinstance(tool, dict):
                raise ProblemError(f"[tool.rowbell] in {file} must be a table")
            return tool
    return {}


def _tables(models: str) -> list[Table]:
    """The watched tables of ``package.module:Base``."""
    module, _, name = models.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        base: Any = getattr(importlib.import_module(module), name or "Base")
        tables = [table for table in base.metadata.sorted_tables if is_declared(table)]
    except (Exception, SystemExit) as error:
        raise ProblemError(f"the models {models!r} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    if not tables:
        raise ProblemError(f"no model of {models!r} is declared with @rowbell.watched")
    return tables
