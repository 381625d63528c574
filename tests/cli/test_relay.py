"""``rowbell doctor`` for a process that uses a relay."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

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
