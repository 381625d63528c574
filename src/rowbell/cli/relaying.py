"""``rowbell relay``: a relay in the foreground, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from rowbell.cli.problem import ProblemError, told_in_one_line

if TYPE_CHECKING:
    from rowbell.cli.output import Output
    from rowbell.cli.target import Target

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def relay(
    target: Target,
    output: Output,
    *,
    health: str | None,
    socket: str | None,
    nats: list[str] | None,
    **options: Any,
) -> None:
    """Run a relay until SIGTERM or SIGINT.

    Args:
        target: The database.
        output: What it prints at the end.
        health: ``host:port`` to answer ``/live`` and ``/ready`` on; ``None`` for not at all.
        socket: The path of a unix socket.
        nats: URLs of NATS servers, instead of a socket.
        options: Other arguments of ``Relay``.

    Raises:
        ProblemError: The options are unusable.
    """
    try:
        from rowbell.cli.health import Health  # noqa: PLC0415  # it needs the relay, too
        from rowbell.relay import Relay  # noqa: PLC0415  # an extra's
    except ImportError as error:
        raise ProblemError(f'{error}: pip install "rowbell[relay]"') from error
    if (socket is None) == (not nats):
        raise ProblemError("give either --socket or --nats")
    logging.getLogger("rowbell").setLevel(logging.INFO)
    loop = asyncio.get_running_loop()
    async with target.engine() as engine, AsyncExitStack() as stack:
        try:
            made = Relay(engine, socket=socket, nats=nats or None, **options)
        except ImportError as error:
            raise ProblemError(f'{error}: pip install "rowbell[nats]"') from error
        if health is not None:
            stack.enter_context(Health(health, made, loop))
        running = await stack.enter_async_context(made)
        for number in _SIGNALS:
            loop.add_signal_handler(number, running.stop)
            stack.callback(loop.remove_signal_handler, number)
        with told_in_one_line():
            await running.wait_closed()
        output.line(f"{running.status().notifications} notifications passed on")
