"""The agent: breaks one thing after the other, as planned, and writes down when."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import plan
from faults import FAULTS, Scene, insist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from log import Log


async def break_things(
    scene: Scene, log: Log, seed: int, kinds: Sequence[str], until: float
) -> None:
    """Break and mend, until it is time to stop."""
    for k, fault in enumerate(plan.faults(seed, kinds)):
        await asyncio.sleep(fault.calm)
        if time.monotonic() >= until:
            return
        begun, error, broken = time.monotonic(), "", True
        try:
            broken = await FAULTS[fault.how](scene, fault)
        except Exception as failure:  # noqa: BLE001  # it did not come about; that is told
            error = f"{type(failure).__name__}: {failure}"[:300]
        ended = time.monotonic()
        log.write(
            "fault",
            k=k,
            how=fault.how,
            table=fault.table,
            begun=begun,
            # Where everything went on, no stretch is excused, however long it took.
            ended=ended if broken else begun,
            over=ended,
            error=error,
        )
        if fault.how == "promote":
            await insist(lambda: asyncio.to_thread(scene.servers.make_standby))


async def sabotage(scene: Scene, until: float) -> None:
    """Delete all registrations, again and again: without heartbeats nobody notices."""
    while time.monotonic() < until:
        with suppress(Exception):  # the server may be away
            await FAULTS["forget"](scene, plan.Fault("forget", "", 0.0, 0.0, 0.0))
        await asyncio.sleep(1)
