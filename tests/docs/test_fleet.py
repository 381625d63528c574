"""The page on fleets: its snippets run, with the socket and the servers that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import rowbell
from rowbell import Reason, WatcherState
from rowbell.relay import Relay
from support.nats import nats_server
from support.observed import execute
from support.paths import ROOT
from support.relays import Program, leads
from support.roles import role
from support.snippets import run
from support.waits import armed_wait

PAGE = ROOT / "docs" / "how-to" / "fleet.md"
SOCKET = "/run/rowbell/relay.sock"


def blocks(language: str) -> list[str]:
    """The blocks of the page, in its order."""
    text = PAGE.read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


async def test_the_snippets_for_a_socket_run(
    orders: AsyncEngine, database: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The relay has the rights that the page gives it, and no others."""
    [grants] = blocks("sql")
    grant = grants.split(";")[1].strip()
    path = str(tmp_path / "relay.sock")
    notifier, _, relaying = (block.replace(SOCKET, path) for block in blocks("python"))
    assert path in notifier
    async with role(database, grant.replace("TO relay", "TO {role}")) as url:
        engine = create_async_engine(url)
        async with Relay(engine, socket=path) as relay:
            await relay.reached(leads)
            namespace: dict[str, Any] = {"rowbell": rowbell, "engine": orders}
            await run(notifier, PAGE, namespace)
            async with namespace["watcher"] as watcher:
                wait = await armed_wait(watcher)
                await execute(database, "UPDATE orders SET n = 1")
                assert (await wait).n == 1
        await run(relaying, PAGE, {"engine": engine})
        assert "0 processes" in capsys.readouterr().out
        await engine.dispose()


async def test_the_snippet_for_nats_runs_with_the_shipped_configuration(
    orders: AsyncEngine, database: URL
) -> None:
    _, notifier, _ = blocks("python")
    async with nats_server() as server:
        notifier = notifier.replace("tls://shop:password@nats:4222", server.url("shop"))
        async with Relay(orders, nats=server.url("relay")) as relay:
            await relay.reached(leads)
            namespace: dict[str, Any] = {"rowbell": rowbell, "engine": orders}
            await run(notifier, PAGE, namespace)
            async with namespace["watcher"] as watcher:
                assert watcher.statistics().state is WatcherState.LISTENING


def test_the_page_names_the_reasons_that_processes_give() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for reason in (Reason.NOT_DELIVERED, Reason.RELAY_OUTDATED, Reason.NOT_PERMITTED):
        assert f"`{reason}`" in text


@pytest.mark.timeout(180)
async def test_make_fleet_loses_nothing() -> None:
    """With fewer workers and shorter pauses."""
    program = ROOT / "examples" / "fleet" / "fleet.py"
    options = ("--workers", "3", "--pause", "4")
    async with Program(str(program), *options) as fleet:
        out, error = await fleet.process.communicate()
    assert fleet.process.returncode == 0, error.decode()
    assert "│ lost" in out.decode()
