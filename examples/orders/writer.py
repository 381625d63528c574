"""The writer process: it changes the state of orders with plain SQL, without rowbell.

For each commit it prints a line: the order, the state, and the monotonic clock after the commit.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import asyncpg
from sqlalchemy import make_url

STATES = ("paid", "packed", "shipped", "delivered")
PAUSE = 0.9  # seconds between two states of an order: longer than the polling interval


async def main(url: str, orders: int) -> None:
    """Take each order through all its states."""
    target = make_url(url)
    connection = await asyncpg.connect(
        host=str(target.query.get("host", target.host)),
        port=target.port,
        user=target.username,
        password=target.password,
        database=target.database,
    )
    for status in STATES:
        for order in range(1, orders + 1):
            await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE / orders)
            await connection.execute(
                "UPDATE orders SET status = $1, changed_at = now() WHERE id = $2", status, order
            )
            print(order, status, time.monotonic_ns(), flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
