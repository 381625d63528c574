"""Install the built wheel into empty environments, without extras and with each, and use it there.

::

    python tests/wheel.py dist/rowbell-0.1.0-py3-none-any.whl

Nothing of the repository is on the path: what works here works for somebody who runs pip install.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = list(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)

MISSING = """
from importlib import import_module
for module in ("cli", "fastapi", "relay", "telemetry"):
    try:
        import_module(f"rowbell.{module}")
    except (ImportError, SystemExit) as error:
        assert f"pip install rowbell[{module}]" in str(error), error
    else:
        raise AssertionError(module)
try:
    with import_module("rowbell.embedded").server_url():
        raise AssertionError("a server without the extra")
except ImportError as error:
    assert "rowbell[embedded]" in str(error), error
"""

PLUGIN = """
import pytest
from sqlalchemy import MetaData

@pytest.fixture(scope="session")
def rowbell_schema():
    return MetaData()

async def test_a_session_on_an_embedded_server(rowbell_session):
    assert rowbell_session.bind.dialect.name == "postgresql"
"""

USES = {
    "": MISSING,
    "alembic": "import rowbell.alembic; rowbell.alembic.register()",
    "cli": "",
    "embedded": "",
    "fastapi": "from rowbell.fastapi import SessionDep, WatcherDep, event_stream, long_poll",
    "nats": "from rowbell.relay import NatsNotifier; NatsNotifier('nats://localhost')",
    "psycopg": "import psycopg, rowbell",
    "relay": "from rowbell.relay import Relay, SocketNotifier; SocketNotifier('a')",
    "telemetry": "from rowbell.telemetry import instrument",
    "pytest": "",
}
"""What is run in an environment with that extra; more for some below."""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Run a command in a folder; return what it prints."""
    program = Path(command[0]).parent
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}"}
    environment.pop("DATABASE_URL", None)
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}")
    return done.stdout


def environment(folder: Path, *requirements: str) -> Path:
    """A new virtual environment with these installed; its Python."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    run(python, "-m", "pip", "check")
    return python


def try_out(wheel: Path, extra: str, folder: Path) -> None:
    """Install the wheel with one extra, or with none, and use what that extra is for."""
    python = environment(folder, f"{wheel}[{extra}]" if extra else str(wheel))
    run(python, "-W", "error", "-c", f"import rowbell\n{USES[extra]}", folder=folder)
    command = python.with_name("rowbell")
    match extra:
        case "cli":
            assert "doctor" in run(command, "--help")
        case "embedded":
            page = (ROOT / "docs" / "first-steps.md").read_text()
            [script] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
            (folder / "shop.py").write_text(script)
            assert f"```\n{run(python, 'shop.py', folder=folder)}```" in page
        case "pytest":
            (folder / "test_plugin.py").write_text(PLUGIN)
            (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
            assert "1 passed" in run(python, "-m", "pytest", "-q", folder=folder)
        case _:
            pass


def complete_types(wheel: Path, folder: Path) -> None:
    """Every public name of the installed package has a known type."""
    python = environment(folder, f"{wheel}[{','.join(EXTRAS)}]", "pyright[nodejs]")
    checked = "pyright", "--verifytypes", "rowbell", "--ignoreexternal"
    told = run(python, "-m", *checked, folder=folder)
    print(re.findall("Type completeness score: .*", told)[0])


def main(wheel: Path) -> None:
    """Try the wheel out."""
    assert {*USES} == {"", *EXTRAS}
    for extra in USES:
        with tempfile.TemporaryDirectory() as folder:
            try_out(wheel, extra, Path(folder))
        print(f"rowbell{extra and f'[{extra}]'}: installs and works", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        complete_types(wheel, Path(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
