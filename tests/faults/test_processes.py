"""Several processes wait, and one of them forks, is stopped or is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from support.catalogue import due, seen
from support.models import Order
from support.observed import execute, listeners, none_left
from support.paths import PYTHONPATH

APP = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from support.models import Order
from rowbell import RowWatcher

engine = create_async_engine(os.environ["DATABASE_URL"])

@asynccontextmanager
async def lifespan(app):
    async with RowWatcher(engine) as app.state.watcher:
        yield

app = FastAPI(lifespan=lifespan)

@app.get("/waiting")
async def waiting():
    return app.state.watcher.statistics().armed

@app.get("/orders/{key}")
async def order(key: int):
    return (await app.state.watcher.wait_for_change(Order, key, timeout=60)).n
"""


async def _serve(
    database: URL, directory: Path, *options: str
) -> tuple[asyncio.subprocess.Process, str]:
    """Uvicorn with that app, in another process."""
    (directory / "app.py").write_text(APP)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "app:app", "--port", "0", *options),
        cwd=directory,
        env={
            "DATABASE_URL": database.render_as_string(hide_password=False),
            "PYTHONPATH": f"{directory}{os.pathsep}{PYTHONPATH}",
            "PATH": "",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    while "running on" not in (line := (await process.stderr.readline()).decode()):
        assert line, "".join(lines)
        lines.append(line)
    return process, line.split("running on ")[1].split()[0]


@pytest.mark.fault("B38")
async def test_a_server_stops_while_requests_wait(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    """It stops within uvicorn's shutdown timeout, leaves no session, and logs no error."""
    process, url = await _serve(database, tmp_path, "--timeout-graceful-shutdown", "1")
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        requests = [asyncio.create_task(client.get(f"/orders/{i}")) for i in range(1, 51)]
        while (await client.get("/waiting")).json() < 50:
            await asyncio.sleep(0.02)
        begun = asyncio.get_running_loop().time()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        await process.wait()
        assert asyncio.get_running_loop().time() - begun < 10
        await asyncio.gather(*requests, return_exceptions=True)
    assert "was destroyed" not in said
    assert "never retrieved" not in said
    await orders.dispose()
    await none_left(orders)


WORKER = """
import asyncio, os, sys
from sqlalchemy.ext.asyncio import create_async_engine
from support.models import Order
from rowbell import RowWatcher, Timing

async def main():
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with RowWatcher(engine, mode="listen", recheck=None, timing=Timing(heartbeat=0.1)) as w:
        wait = asyncio.create_task(w.wait_for_change(Order, int(sys.argv[1]), timeout=60))
        await w.reached(lambda now: now.armed == 1)
        print("armed", flush=True)
        print((await wait).n, flush=True)
    await engine.dispose()

asyncio.run(main())
"""


@pytest.mark.fault("B40")
async def test_several_processes_have_a_listener_each_and_one_that_is_killed_harms_none(
    orders: AsyncEngine, database: URL
) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, str(key)),
            env={
                "DATABASE_URL": database.render_as_string(hide_password=False),
                "PYTHONPATH": PYTHONPATH,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        for key in range(1, 5)
    ]
    outputs = [process.stdout for process in processes]
    for output in outputs:
        assert output is not None
        assert await output.readline() == b"armed\n"
    assert len(await listeners(orders)) == 4
    processes[0].kill()
    async with orders.connect() as connection:
        registered = text("SELECT count(*) FROM rowbell.registration")
        while await connection.scalar(registered) != 3:  # another listener's heartbeat deletes it
            await connection.commit()
            await asyncio.sleep(0.02)
        await connection.execute(update(Order).values(n=1))
        await connection.commit()
    due()
    for process, output in zip(processes[1:], outputs[1:], strict=True):
        assert output is not None
        assert await seen(output.readline()) == b"1\n"
        assert await process.wait() == 0
    await processes[0].wait()


FORKED = """
import asyncio, os, sys
import rowbell
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from support.models import Plain

engine = create_async_engine(sys.argv[1])


async def child(watcher):
    try:
        await watcher.wait_for_change(Plain, 1, timeout=5)
    except rowbell.WatcherStateError as error:
        assert "another event loop" in str(error), error
    await engine.dispose(close=False)  # forget the parent's connections
    async with AsyncSession(engine) as session:
        plain = await rowbell.wait_for_row_change(session, Plain, 1, since={"n": -1}, timeout=20)
        assert plain.n == 0
    await engine.dispose()


async def parent():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return await rowbell.RowWatcher(engine).__aenter__()


loop = asyncio.new_event_loop()
watcher = loop.run_until_complete(parent())
pid = os.fork()
if pid == 0:
    asyncio.set_event_loop(None)
    asyncio.run(child(watcher))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
loop.run_until_complete(watcher.aclose())
loop.run_until_complete(engine.dispose())
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_what_was_opened_before_a_fork_belongs_to_the_parent(database: URL) -> None:
    """The child gets an error, and can go on with its own connections."""
    await execute(database, "INSERT INTO plain VALUES (1, 0)")
    url = database.render_as_string(hide_password=False)
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FORKED, url],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "both\n"), ran.stderr
