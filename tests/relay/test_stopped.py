"""Relays and processes that are stopped, continued, killed and told to end, as programs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell.relay import Relay, RelayState, SocketNotifier
from support.command import call
from support.observed import execute
from support.paths import ROOT
from support.ports import free_port
from support.relays import Program, leading, leads, relay_program
from support.waits import POLLING, armed_waits

from .conftest import Watched

WAITS = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from rowbell import RowWatcher
from rowbell.relay import SocketNotifier
from support.models import Order

async def main():
    engine = create_async_engine(sys.argv[1])
    async with RowWatcher(engine, notifier=SocketNotifier(sys.argv[2]), recheck=None) as watcher:
        wait = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=0.3))
        await watcher.reached(lambda now: now.armed == 1)
        print("armed", flush=True)
        print("woken", (await wait).n, flush=True)
        again = asyncio.create_task(watcher.wait_for_change(Order, 1, interval=3600))
        await watcher.reached(lambda now: now.armed == 1)
        print("armed again", flush=True)
        print("woken again", (await again).n, flush=True)
    await engine.dispose()

asyncio.run(main())
"""


async def test_a_leader_that_is_stopped_is_replaced_and_is_no_leader_when_it_goes_on(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    """The kernel keeps its connections. The server ends its session, so its lock is free."""
    path = tmp_path / "relay"
    async with relay_program(database, "--socket", str(path)) as leader:
        await leader.said("leading")
        watcher = await processes(database, SocketNotifier(path))
        waits = await armed_waits(watcher, [1, 2])
        async with Relay(orders, socket=path) as stand_by:
            await stand_by.reached(lambda now: now.state is RelayState.STANDING_BY)
            leader.stop()
            await stand_by.reached(leads)
            await stand_by.reached(lambda now: now.rows == 2)
            await watcher.reached(lambda now: now.armed == 2)
            leader.go_on()
            await leader.said("standing by")
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await waits[0]).n == 1
            assert stand_by.status().state is RelayState.LEADING
            await stand_by.aclose()
            await leader.said("leading")
            await watcher.reached(lambda now: now.armed == 1)
            await execute(database, "UPDATE orders SET n = 2 WHERE id = 2")
            assert (await waits[1]).n == 2


@pytest.mark.parametrize("seconds", [0.5, 4.0, 11.0])
async def test_a_process_that_is_stopped_finds_what_has_changed_and_is_armed_again(
    orders: AsyncEngine, database: URL, tmp_path: Path, seconds: float
) -> None:
    """After 3 s it relies on nothing that it was told, after 10 s the relay has forgotten it."""
    async with leading(orders, tmp_path) as (relay, _):
        url = database.render_as_string(hide_password=False)
        path = str(tmp_path / "relay")
        async with Program("-c", WAITS, url, path, PYTHONPATH=str(ROOT / "tests")) as process:
            await process.said("armed", by="stdout")
            process.stop()
            await asyncio.sleep(seconds)
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert relay.status().sessions == (1 if seconds < 10 else 0)
            process.go_on()
            await process.said("woken 1", by="stdout")
            await process.said("armed again", by="stdout")
            await execute(database, "UPDATE orders SET n = 2 WHERE id = 1")
            await process.said("woken again 2", by="stdout")


async def test_a_relay_that_is_told_to_end_says_so_and_frees_its_place_at_once(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    path = tmp_path / "relay"
    async with relay_program(database, "--socket", str(path)) as leader:
        await leader.said("leading")
        watcher = await processes(database, SocketNotifier(path))
        [wait] = await armed_waits(watcher, [1])
        async with Relay(orders, socket=path) as stand_by:
            await stand_by.reached(lambda now: now.state is RelayState.STANDING_BY)
            leader.process.send_signal(signal.SIGTERM)
            await watcher.reached(lambda now: now.state is POLLING)
            assert "leaving" in watcher.statistics().detail
            async with asyncio.timeout(2):
                assert await leader.process.wait() == 0
            await stand_by.reached(leads)
            await watcher.reached(lambda now: now.armed == 1)
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await wait).n == 1


async def test_a_relay_that_is_killed_is_replaced(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    path = tmp_path / "relay"
    async with relay_program(database, "--socket", str(path)) as leader:
        await leader.said("leading")
        watcher = await processes(database, SocketNotifier(path))
        [wait] = await armed_waits(watcher, [1])
        leader.process.kill()
        await watcher.reached(lambda now: now.state is POLLING)
        async with Relay(orders, socket=path) as successor:
            await successor.reached(leads)
            await watcher.reached(lambda now: now.armed == 1)
            await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
            assert (await wait).n == 1


async def test_a_supervisor_is_told_whether_a_relay_lives_and_is_ready(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    port = free_port()

    async def get(path: str) -> tuple[int, str]:
        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(fetch)

    health = f"127.0.0.1:{port}"
    path = str(tmp_path / "relay")
    async with relay_program(database, "--socket", path, "--health", health) as relay:
        await relay.said("leading")
        assert await get("/live") == (200, "leading\n")
        assert await get("/ready") == (200, "leading\n")
        code, text = await get("/status")
        assert (code, json.loads(text)["sessions"]) == (200, 0)
        assert (await get("/other"))[0] == 404
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with Program(
        "-c",
        "from rowbell.cli import main; main()",
        "relay",
        "--url",
        nowhere,
        "--socket",
        path,
        "--health",
        health,
    ) as relay:
        await relay.said("connection_lost")
        assert (await get("/live"))[0] == 200
        assert (await get("/ready"))[0] == 503


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--socket or --nats"),
        (("--socket", "a", "--nats", "nats://localhost"), "--socket or --nats"),
        (("--socket", "a", "--socket-mode", "9"), "octal"),
        (("--nats", "nats://db.example.com"), "tls://"),
        (("--socket", "a", "--health", "nowhere"), "host:port"),
    ],
)
def test_options_of_the_command_are_checked(
    database: URL, options: tuple[str, ...], message: str
) -> None:
    called = call("relay", *options, url=database)
    assert called.code == 2
    assert message in called.err
    assert sys.exc_info() == (None, None, None)
