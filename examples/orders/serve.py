"""The example app with its worker, on a PostgreSQL server that keeps its data.

    make serve

The server is in ``.postgresql``, or ``DATABASE_URL`` names another. ``PORT`` is 8000 by default,
``HOST`` 127.0.0.1. docker-compose.yml runs it too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from models import STATES, Order
from rich.console import Console
from sqlalchemy import URL, func, insert, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rowbell import DatabaseStateError, create_database
from rowbell.embedded import EmbeddedServer, named_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DATABASE = "rowbell_orders"
GRACE = 5  # seconds for clients that read nothing when the server is to end
ITEMS = ("A bell", "Two ropes", "A wheel")
console = Console()


@contextmanager
def server() -> Generator[URL]:
    """The server that ``DATABASE_URL`` names, or one that keeps its data."""
    if named := named_server():
        yield named
    else:
        with EmbeddedServer(root=ROOT / ".postgresql") as embedded:
            yield embedded.url


async def prepare(url: URL) -> None:
    """Create the database the first time."""
    try:
        await create_database(DATABASE, server_url=url)
    except DatabaseStateError:
        return  # it is there


async def fill(url: URL) -> None:
    """Add some orders, if there is none."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        if not await connection.scalar(select(func.count()).select_from(Order)):
            rows = [{"item": item, "status": STATES[0]} for item in ITEMS]
            await connection.execute(insert(Order), rows)
    await engine.dispose()


async def run(host: str, port: str) -> int:
    """Run the app and the worker until one of them ends, or until this process is told to."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    web = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE)),
        *("--host", host, "--port", port),
        *("--timeout-graceful-shutdown", str(GRACE), "--log-level", "warning"),
    )
    worker = await asyncio.create_subprocess_exec(sys.executable, str(HERE / "worker.py"))
    console.print(f"Orders: [bold]http://{host}:{port}[/bold]  (Ctrl+C ends it)")
    ends = [asyncio.create_task(wait) for wait in (stop.wait(), web.wait(), worker.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for process in (web, worker):
        if process.returncode is None:
            process.terminate()
    await asyncio.gather(web.wait(), worker.wait())
    for end in ends:
        end.cancel()
    return 0 if stop.is_set() else 1


def main() -> None:
    """Start PostgreSQL, migrate the database, and serve."""
    with server() as url:
        asyncio.run(prepare(url))
        own = url.set(database=DATABASE)
        os.environ["DATABASE_URL"] = own.render_as_string(hide_password=False)
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
        asyncio.run(fill(own))
        host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
        code = asyncio.run(run(host, port))
    sys.exit(code)


if __name__ == "__main__":
    main()
