"""``rowbell doctor`` for a process that uses a relay."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell.cli.health import Health
from rowbell.cli.problem import ProblemError
from rowbell.relay import Relay
from support.command import called
from support.nats import nats_server
from support.relays import leading, leads


async def test_the_doctor_begins_a_session_at_a_relay(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    async with leading(orders, tmp_path) as (relay, _):
        socket = str(tmp_path / "relay")
        found = (await called("doctor", "--socket", socket, "--json", url=database)).findings()
        assert found["relay"]["outcome"] == "ok"
        assert f"term {relay.status().term} has received" in found["relay"]["evidence"]
        await relay.reached(lambda now: now.sessions == 0)


async def test_the_doctor_says_why_there_is_no_relay(
    orders: AsyncEngine, database: URL, tmp_path: Path
) -> None:
    socket = str(tmp_path / "none")
    answer = await called("doctor", "--socket", socket, "--json", url=database)
    assert answer.code == 1
    assert "No such file" in answer.findings()["relay"]["evidence"]
    wrong = await called("doctor", "--nats", "nats://db.example.com", url=database)
    assert (wrong.code, "tls://" in wrong.err) == (2, True)


async def test_the_doctor_goes_through_nats_with_the_rights_of_an_application(
    orders: AsyncEngine, database: URL
) -> None:
    async with nats_server() as server, Relay(orders, nats=server.url("relay")) as relay:
        await relay.reached(leads)
        options = ("doctor", "--nats", server.url("shop"), "--json")
        found = (await called(*options, "--application", "shop", url=database)).findings()
        assert found["relay"]["outcome"] == "ok"
        found = (await called(*options, url=database)).findings()
        assert "rowbell.app." in found["relay"]["evidence"]
        assert "for-shop" not in found["relay"]["evidence"]


async def test_the_health_of_a_relay_is_asked_of_its_event_loop(
    orders: AsyncEngine, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with leading(orders, tmp_path) as (relay, _):
        with Health("127.0.0.1:0", relay, loop) as health:

            def get(path: str) -> tuple[int, str]:
                address = f"http://127.0.0.1:{health.port}{path}"
                try:
                    with urllib.request.urlopen(address) as answer:
                        return answer.status, answer.read().decode()
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code, error.read().decode()

            for path, expected in {
                "/live": (200, "leading\n"),
                "/ready": (200, "leading\n"),
                "/else": (404, "/live, /ready or /status\n"),
            }.items():
                assert await asyncio.to_thread(get, path) == expected
            code, text = await asyncio.to_thread(get, "/status")
            assert (code, json.loads(text)["term"]) == (200, relay.status().term)
            asking = loop.run_in_executor(None, get, "/live")
            time.sleep(2.5)  # noqa: ASYNC251  # the event loop is blocked
            assert (await asking)[0] == 503
            await relay.aclose()
            assert (await asyncio.to_thread(get, "/ready"))[0] == 503
        with pytest.raises(ProblemError, match="no host:port"):
            Health(f"127.0.0.1:{'x'}", relay, loop)
