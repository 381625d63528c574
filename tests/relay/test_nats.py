"""A relay that is reached through NATS, with the rights of the configuration that is shipped."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
import trustme
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import Reason, RowWatcher, Timing, WatcherStateError
from rowbell._watch.wire import nats_connection
from rowbell._watch.wire.nats_connection import NatsConnection, NatsServers
from rowbell.errors import InvalidArgumentError
from rowbell.relay import NatsNotifier, Relay, RelayState
from support.nats import SHIPPED, NatsServer, cluster, nats_server
from support.observed import execute
from support.ports import free_port
from support.relays import leads, relay_program
from support.waits import LISTENING, POLLING, armed_waits

from .conftest import Watched

OPEN = """
accounts { A { users = [
  {user: relay, password: for-relay},
  {user: shop, password: for-shop, permissions: {publish: ["rowbell.>"], subscribe: ["rowbell.>"]}}
] } }
"""


@pytest.fixture
async def broker() -> AsyncIterator[NatsServer]:
    async with nats_server() as server:
        yield server


def shop(server: NatsServer, **more: Any) -> NatsNotifier:
    return NatsNotifier(server.url("shop"), application="shop", **more)


@asynccontextmanager
async def leading(engine: AsyncEngine, server: NatsServer, **more: Any) -> AsyncGenerator[Relay]:
    async with Relay(engine, nats=server.url("relay"), **more) as relay:
        await relay.reached(leads)
        yield relay


async def woken(watcher: RowWatcher, database: URL, key: int = 1) -> None:
    """A wait is armed, and a change wakes it."""
    [wait] = await armed_waits(watcher, [key])
    await execute(database, f"UPDATE orders SET n = n + 1 WHERE id = {key}")
    await asyncio.wait_for(wait, 10)


async def test_processes_are_armed_and_woken_with_the_rights_that_are_shipped(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched
) -> None:
    before = asyncio.all_tasks()
    async with leading(orders, broker) as relay:
        watchers = [await processes(database, shop(broker)) for _ in range(3)]
        waits = [wait for watcher in watchers for wait in await armed_waits(watcher, [1, 2])]
        await execute(database, "UPDATE orders SET n = 1")
        assert {order.n for order in await asyncio.gather(*waits)} == {1}
        for watcher in watchers:
            await watcher.aclose()
        await relay.reached(lambda now: now.sessions == 0)
    assert asyncio.all_tasks() == before  # the client has left no task


async def test_nobody_but_the_relay_can_publish_to_a_process(broker: NatsServer) -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(broker.url("shop"), error_cb=note, allow_reconnect=False)
    for subject in ("rowbell.shop.to.x", "rowbell.other.ask", "rowbell.other.to.x", "anything"):
        await client.publish(subject, b"forged")
    for subject in (">", "rowbell.>", "rowbell.other.to.*", "rowbell.*.ask", "rowbell.shop.ask"):
        await client.subscribe(subject)
    async with asyncio.timeout(10):
        while len(refused) < 9:  # the client reports them later than the answer to a flush
            await asyncio.sleep(0.01)
    await client.close()
    assert all("permissions violation" in error.lower() for error in refused)


async def test_a_relay_refuses_servers_on_which_others_could_pretend_to_be_processes(
    orders: AsyncEngine, tmp_path: Path
) -> None:
    config = tmp_path / "nats.conf"
    await asyncio.to_thread(config.write_text, OPEN)
    async with nats_server(config) as server:
        async with Relay(orders, nats=server.url("relay")) as relay:
            await relay.reached(lambda now: now.reason is Reason.NOT_PERMITTED)
            assert "its own user may publish" in relay.status().detail
            assert "for-relay" not in relay.status().detail
        async with leading(orders, server, insecure=True):
            pass


async def test_a_process_refuses_a_user_that_could_pretend_to_be_the_relay(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    config = tmp_path / "nats.conf"
    await asyncio.to_thread(config.write_text, OPEN)
    async with nats_server(config) as server, leading(orders, server, insecure=True):
        refused = await processes(database, shop(server))
        assert refused.statistics().reason is Reason.NOT_PERMITTED
        assert "rowbell.shop.to." in refused.statistics().detail
        await woken(await processes(database, shop(server, insecure=True)), database)


async def test_a_subscription_that_is_not_permitted_is_named(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched
) -> None:
    async with leading(orders, broker):
        notifier = NatsNotifier(broker.url("shop"), application="other")
        watcher = await processes(database, notifier, timing=Timing(proof=0.5))
        now = watcher.statistics()
        assert now.reason is Reason.NOT_PERMITTED
        assert "rowbell.other." in now.detail


async def test_a_wrong_password_is_named_and_not_shown(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched
) -> None:
    url = broker.url("shop").replace("for-shop", "secret-word")
    watcher = await processes(database, NatsNotifier(url, application="shop"))
    assert watcher.statistics().reason is Reason.NOT_PERMITTED
    assert "secret-word" not in watcher.statistics().detail


async def test_a_watcher_starts_while_nats_is_down_and_is_armed_when_it_is_up(
    orders: AsyncEngine, database: URL, processes: Watched
) -> None:
    server = NatsServer(port=free_port())
    timing = Timing(backoff=0.05, backoff_limit=0.2)
    watcher = await processes(database, shop(server), timing=timing)
    assert watcher.statistics().reason is Reason.CONNECTION_LOST
    async with (
        Relay(orders, nats=server.url("relay"), timing=timing) as relay,
        nats_server(port=server.port),
    ):
        await relay.reached(leads)
        await watcher.reached(lambda now: now.state is LISTENING)
        await woken(watcher, database)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_broker_that_is_gone_is_polled_for_and_armed_again_when_it_is_back(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched, how: str
) -> None:
    async with leading(orders, broker) as relay:
        watcher = await processes(database, shop(broker))
        waits = await armed_waits(watcher, [1, 2], interval=0.1)
        if how == "killed":
            await broker.kill()
        else:
            broker.stop()
        async with asyncio.timeout(5):
            await watcher.reached(lambda now: now.state is POLLING)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        assert (await waits[0]).n == 1
        if how == "killed":
            await broker.start()
        else:
            broker.go_on()
        await relay.reached(leads)
        await watcher.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 2")
        assert (await waits[1]).n == 1


async def test_a_relay_that_is_killed_is_noticed_at_once(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched
) -> None:
    """The server answers what nobody receives."""
    options = ("--nats", broker.url("relay"))
    async with relay_program(database, *options) as relay:
        await relay.said("leading")
        watcher = await processes(database, shop(broker))
        await watcher.reached(lambda now: now.state is LISTENING)
        relay.process.kill()
        await watcher.reached(lambda now: now.state is POLLING)
        assert watcher.statistics().reason is Reason.CONNECTION_LOST
        assert "no relay listens to rowbell.shop.ask" in watcher.statistics().detail


async def test_relays_stand_by_for_each_other(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched
) -> None:
    async with leading(orders, broker) as first:
        watcher = await processes(database, shop(broker))
        [wait] = await armed_waits(watcher, [1])
        async with Relay(orders, nats=broker.url("relay")) as second:
            await second.reached(lambda now: now.state is RelayState.STANDING_BY)
            await first.aclose()
            await second.reached(lambda now: now.sessions == 1)
            await watcher.reached(lambda now: now.armed == 1)
            await execute(database, "UPDATE orders SET n = 1")
            assert (await wait).n == 1


async def test_processes_of_a_cluster_are_armed_whatever_server_they_are_at(
    orders: AsyncEngine, database: URL, processes: Watched
) -> None:
    """To be subscribed does not mean there that messages arrive: hearing the relay does."""
    async with cluster() as (first, second, third), leading(orders, first):
        watchers = [
            await processes(database, shop(server), timing=Timing(backoff=0.05))
            for server in (first, second, third, second, third)
        ]
        for watcher in watchers:
            await watcher.reached(lambda now: now.state is LISTENING)
        waits = [wait for watcher in watchers for wait in await armed_waits(watcher, [1, 2])]
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 1")
        assert {(await wait).n for wait in waits[::2]} == {1}
        await third.kill()
        for watcher in (watchers[2], watchers[4]):
            await watcher.reached(lambda now: now.state is POLLING)
        await third.start()
        for watcher in watchers:
            await watcher.reached(lambda now: now.armed == 1)
        await execute(database, "UPDATE orders SET n = 1 WHERE id = 2")
        assert {(await wait).n for wait in waits[1::2]} == {1}


async def test_a_process_that_cannot_follow_is_told_so(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "_PENDING", 5)
    lost: list[Any] = []
    ended = asyncio.Event()

    def note(error: Any) -> None:
        lost.append(error)
        ended.set()

    relay = NatsServers.of(broker.url("relay"), None, None, insecure=False)
    process = NatsServers.of(broker.url("shop"), None, None, insecure=False)
    async with (
        NatsConnection(relay, note).opened() as sending,
        NatsConnection(process, note).opened() as receiving,
    ):
        received: list[Any] = []
        await receiving.subscribe("rowbell.shop.to.x", received.append)
        await receiving.try_to_forge("rowbell.shop.to.x")  # and be sure that it is subscribed
        for _ in range(1_000):
            sending.send("rowbell.shop.to.x", b"x" * 100)
        await asyncio.wait_for(ended.wait(), 10)
        assert "cannot follow" in str(lost[0])
        before = len(received)
        await asyncio.sleep(0.1)
        assert len(received) == before  # nothing is received after the loss


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_watcher_whose_close_is_cancelled_leaves_nothing(
    orders: AsyncEngine, database: URL, broker: NatsServer, processes: Watched, turns: int
) -> None:
    async with leading(orders, broker) as relay:
        before = asyncio.all_tasks()
        watcher = await processes(database, shop(broker))
        [wait] = await armed_waits(watcher, [1])
        closing = asyncio.create_task(watcher.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)  # another step of the close each time
        closing.cancel()
        await asyncio.wait([closing, wait])
        assert asyncio.all_tasks() == before
        await relay.reached(lambda now: now.sessions == 0)
        assert isinstance(wait.exception(), WatcherStateError)


async def test_relays_and_processes_speak_tls_with_a_server_that_an_authority_vouches_for(
    orders: AsyncEngine, database: URL, tmp_path: Path, processes: Watched
) -> None:
    authority, key = trustme.CA(), tmp_path / "key.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ("--tls", "--tlscert", str(key), "--tlskey", str(key))
    async with nats_server(SHIPPED, *options) as server:
        relay, process = (
            server.url(user).replace("nats://", "tls://") for user in ("relay", "shop")
        )
        async with Relay(orders, nats=relay, tls=context) as leader:
            await leader.reached(leads)
            trusting = NatsNotifier(process, application="shop", tls=context)
            await woken(await processes(database, trusting), database)
            doubting = await processes(database, NatsNotifier(process, application="shop"))
            assert doubting.statistics().state is POLLING
            assert "certificate verify failed" in doubting.statistics().detail


def test_servers_on_other_hosts_need_tls() -> None:
    refused: list[Any] = ["nats://db.example.com", "http://localhost", [], "nats://10.0.0.1:4222"]
    for urls in refused:
        with pytest.raises(InvalidArgumentError) as caught:
            NatsNotifier(urls)
        assert "secret" not in str(caught.value)
    with pytest.raises(InvalidArgumentError) as caught:
        NatsNotifier("nats://app:secret@db.example.com")
    assert "secret" not in str(caught.value)
    others: list[dict[str, Any]] = [{"root": "a.b"}, {"application": "*"}, {"application": ""}]
    for more in others:
        with pytest.raises(InvalidArgumentError):
            NatsNotifier("nats://localhost", **more)
    for url in (
        "tls://db.example.com",
        "nats://[::1]:4222",
        "nats://localhost",
        "nats://127.0.0.9",
    ):
        assert "secret" not in repr(NatsNotifier(url))
    assert repr(NatsNotifier("tls://app:secret@host")) == "NatsNotifier('tls://host')"
