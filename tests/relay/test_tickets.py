"""A ticket says which role a process has. Nobody can make one, or use that of another."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from support.roles import connected, role

SESSION = hashlib.sha256(b"session").hexdigest()
CHANNEL = "rowbell_relay_" + "0" * 32
MAY_RELAY = "GRANT EXECUTE ON FUNCTION rowbell.lead(text), rowbell.admit(text[]) TO {role}"


@pytest.fixture
async def ticket(orders: AsyncEngine, database: URL) -> AsyncIterator[str]:
    """The ticket of a role that may SELECT orders."""
    async with role(database, "GRANT SELECT ON orders TO {role}") as url, connected(url) as app:
        yield await introduced(app)


async def introduced(app: asyncpg.Connection[Any], before: str = "SELECT 1") -> str:
    """What the relay receives when this session introduces itself."""
    received: asyncio.Queue[str] = asyncio.Queue()

    def receive(*notification: Any) -> None:
        received.put_nowait(str(notification[3]))

    await app.add_listener(CHANNEL, receive)
    await app.execute(before)
    await app.execute("SELECT rowbell.introduce($1, $2)", SESSION, CHANNEL)
    try:
        return await asyncio.wait_for(received.get(), 10)
    finally:
        await app.remove_listener(CHANNEL, receive)


async def admitted(connection: asyncpg.Connection[Any], *tickets: str) -> list[Any]:
    numbers: list[Any] = await connection.fetchval(
        "SELECT numbers FROM rowbell.admit($1::text[])", list(tickets)
    )
    return numbers


async def test_a_ticket_opens_a_listener_for_the_role_that_has_introduced_itself(
    database: URL, ticket: str
) -> None:
    async with connected(database) as relay:
        [number] = await admitted(relay, ticket)
        [(role_oid, pid)] = await relay.fetch("SELECT role_oid, backend_pid FROM rowbell.listener")
        assert (str(role_oid), pid) == (ticket.split(":", maxsplit=1)[0], relay.get_server_pid())
        assert await admitted(relay, ticket, ticket) == [number, number]  # one for each role


async def test_the_code_of_a_ticket_is_an_hmac(database: URL, ticket: str) -> None:
    """With a key that only the schema's owner can read."""
    async with connected(database) as owner:
        secret = await owner.fetchval("SELECT value FROM rowbell.channel_secret")
    text, _, code = ticket.rpartition(":")
    key = hashlib.sha256(b"ticket:" + secret.encode()).digest()
    assert code == hmac.new(key, text.encode(), "sha256").hexdigest()
    _, expires, session = text.split(":")
    assert 50 < int(expires) - time.time() < 70
    assert session == SESSION


async def test_a_ticket_that_was_changed_in_any_part_opens_nothing(
    database: URL, ticket: str
) -> None:
    oid, expires, session, code = ticket.split(":")
    other = hashlib.sha256(b"other").hexdigest()
    forged = [
        f"10:{expires}:{session}:{code}",
        f"{oid}:{int(expires) + 1}:{session}:{code}",
        f"{oid}:{expires}:{other}:{code}",
        f"{oid}:{expires}:{session}:{other}",
        f"0{oid}:{expires}:{session}:{code}",
        f"{ticket} ",
        f"{ticket}:",
        "9999999999:9:x:y",
        "",
        "'); DROP SCHEMA rowbell; --",
    ]
    async with connected(database) as relay:
        # A bad one does not keep the good one of the same statement out.
        *refused, last = await admitted(relay, *forged, ticket)
        assert refused == [None] * len(forged)
        assert last is not None


async def test_a_ticket_is_valid_for_a_minute_and_while_its_role_exists(database: URL) -> None:
    async with connected(database) as owner:
        code = "SELECT $1 || ':' || rowbell.ticket_code($1)"
        me = await owner.fetchval("SELECT oid FROM pg_roles WHERE rolname = current_user")
        old = await owner.fetchval(code, f"{me}:{int(time.time()) - 1}:{SESSION}")
        nobody = await owner.fetchval(code, f"4294967295:{int(time.time()) + 50}:{SESSION}")
        new = await owner.fetchval(code, f"{me}:{int(time.time()) + 50}:{SESSION}")
        first, second, third = await admitted(owner, old, nobody, new)
        assert (first, second) == (None, None)
        assert third is not None


@pytest.mark.parametrize("how", ["SET ROLE {role}", "SET SESSION AUTHORIZATION {role}"])
async def test_the_ticket_is_for_the_role_that_the_session_has_now(
    orders: AsyncEngine, database: URL, how: str
) -> None:
    async with role(database) as url, connected(database) as owner:
        oid = await owner.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", url.username)
        ticket = await introduced(owner, how.format(role=url.username))
        assert ticket.split(":")[0] == str(oid)


@pytest.mark.parametrize(
    ("session", "channel"),
    [
        ("x", CHANNEL),
        (SESSION, "rowbell"),
        (SESSION, "rowbell_" + "0" * 48),
        (SESSION, CHANNEL + "0"),
        (None, CHANNEL),
        (SESSION, None),
    ],
)
async def test_a_ticket_goes_to_a_relays_channel_only(
    orders: AsyncEngine, database: URL, session: str | None, channel: str | None
) -> None:
    async with connected(database) as owner:
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await owner.execute("SELECT rowbell.introduce($1, $2)", session, channel)


async def test_only_a_role_that_was_chosen_can_use_tickets(database: URL, ticket: str) -> None:
    """A ticket that has leaked is of no use to others."""
    async with role(database) as stranger, connected(stranger) as mallory:
        for statement in (
            "SELECT * FROM rowbell.lead('shop')",
            f"SELECT * FROM rowbell.admit(ARRAY['{ticket}'])",
            f"SELECT rowbell.ticket_code('{ticket}')",
            "SELECT nextval('rowbell.relay_term')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await mallory.execute(statement)


async def test_a_relay_registers_for_a_role_only_what_that_role_may_select(
    database: URL, ticket: str
) -> None:
    """Its own rights, which may be more or less, do not count."""
    async with role(database, MAY_RELAY) as url, connected(url) as relay:
        [number] = await admitted(relay, ticket)
        options = b'{"version":1,"key":{"id":null},"columns":null}'
        registered = (
            "SELECT obstacles FROM rowbell.register(ARRAY[$1::regclass::oid, $2::regclass::oid],"
            " ARRAY[$3::bytea, $3], ARRAY['{id}', '{id}'],"
            " ARRAY[$1::regclass::oid, $2::regclass::oid], ARRAY[1, 1], ARRAY[NULL, NULL], $4)"
        )
        assert await relay.fetchval(registered, "orders", "items", options, number) == [
            None,
            "not_permitted",
        ]
        rows = await relay.fetch("SELECT table_oid::regclass::text FROM rowbell.registration")
        assert [row[0] for row in rows] == ["orders"]


async def test_a_listener_of_another_session_cannot_be_used(
    orders: AsyncEngine, database: URL, ticket: str
) -> None:
    async with connected(database) as relay, connected(database) as other:
        [number] = await admitted(relay, ticket)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await other.execute(
                "SELECT rowbell.register('{}', '{}', '{}', '{}', '{}', '{}', $1)", number
            )
        assert await other.fetchval("SELECT rowbell.own_channel($1)", number) is None


async def test_installing_again_keeps_the_relays_that_an_administrator_has_chosen(
    orders: AsyncEngine, database: URL
) -> None:
    from rowbell import install_triggers
    from support.models import Order
    from support.waits import run

    async with role(database, MAY_RELAY) as url, connected(database) as owner:
        await owner.execute("DROP FUNCTION rowbell.ticket_code(text)")
        await run(orders, install_triggers, Order)
        for function in ("lead(text)", "admit(text[])"):
            allowed = "SELECT has_function_privilege($1, $2, 'EXECUTE')"
            assert await owner.fetchval(allowed, url.username, f"rowbell.{function}")
        await owner.execute("GRANT EXECUTE ON FUNCTION rowbell.admit(text[]) TO PUBLIC")
        await run(orders, install_triggers, Order)
        public = "SELECT has_function_privilege('public', 'rowbell.admit(text[])', 'EXECUTE')"
        assert not await owner.fetchval(public)


async def test_default_privileges_make_nobody_a_relay(orders: AsyncEngine, database: URL) -> None:
    """As a hardened database has them: no function is for everybody, and all are for the app."""
    from rowbell import install_triggers
    from support.models import Order
    from support.waits import run

    async with role(database) as app, connected(database) as owner:
        await owner.execute("DROP SCHEMA rowbell CASCADE")
        await owner.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        await owner.execute(
            f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {app.username}"
        )
        await run(orders, install_triggers, Order)
        for function in ("lead(text)", "admit(text[])"):
            allowed = "SELECT has_function_privilege($1, $2, 'EXECUTE')"
            assert not await owner.fetchval(allowed, app.username, f"rowbell.{function}")
        await owner.execute("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC")
