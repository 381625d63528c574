"""The proof that a connection receives notifications.

An accepted LISTEN proves nothing: a transaction pooler accepts it too, and nothing ever arrives.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import anyio
from asyncpg import PostgresError

from rowbell._watch.notifiers.contract import CannotNotifyError
from rowbell._watch.notifiers.payload import BROADCAST
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rowbell._watch.database.calls import Calls

_NO_LISTEN: Final = ("0A000", "42601")  # not supported, syntax error


async def prove_delivery(
    calls: Calls, notify: Callable[[str], Awaitable[None]], seconds: float
) -> None:
    """Receive one notification that another connection has sent.

    Args:
        calls: The calls on the connection that listens.
        notify: Sends an empty notification to a channel, from another connection.
        seconds: The longest time that it may take.

    Raises:
        CannotNotifyError: Nothing arrived, or LISTEN is refused.
    """
    channel, received = f"{BROADCAST}_{secrets.token_hex(16)}", asyncio.Event()
    try:
        listening = await calls.listen(channel, lambda _: received.set())
    except PostgresError as error:
        if error.sqlstate in _NO_LISTEN:
            raise CannotNotifyError(Reason.UNSUPPORTED, f"LISTEN: {error}") from error
        raise
    with anyio.move_on_after(seconds):
        await notify(channel)
        await received.wait()
    if not received.is_set():
        why = f"LISTEN was accepted, but nothing arrived within {seconds:g}s"
        raise CannotNotifyError(Reason.NOT_DELIVERED, why)
    await calls.unlisten(channel, listening)
