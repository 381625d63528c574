"""A relay as a process: ``python soak/relaying.py DATABASE HEARTBEAT --socket PATH``.

``rowbell relay`` does the same, with a heartbeat of ten seconds. In a soak that would excuse much.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from sqlalchemy.ext.asyncio import create_async_engine

from rowbell import Timing
from rowbell.relay import Relay
from tables import TIMES


async def lead(given: argparse.Namespace) -> None:
    """Run a relay until SIGTERM."""
    engine = create_async_engine(given.database, pool_size=2)
    timing = Timing(**{**TIMES, "heartbeat": given.heartbeat})
    relay = Relay(engine, socket=given.socket, nats=given.nats, timing=timing)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.stop)
    async with relay:
        await relay.wait_closed()
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("heartbeat", type=float)
    parser.add_argument("--socket")
    parser.add_argument("--nats", action="append")
    asyncio.run(lead(parser.parse_args()))
