"""The agent: causes one fault after the other, as planned, and logs their times."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import plan
from faults import FAULTS, Scene, insist
from fleet_faults import FLEET_FAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from log import Log


async def break_things(
    scene: Scene, log: Log, seed: int, kinds: Sequence[str], until: float
) -> None:
    """Cause and repair faults until it is time to stop."""
    for k, fault in enumerate(plan.faults(seed, kinds)):
        await asyncio.sleep(fault.calm)
        if time.monotonic() >= until:
            return
        begun, error, broken = time.monotonic(), "", True
        try:
            broken = await {**FAULTS, **FLEET_FAULTS}[fault.how](scene, fault)
        except Exception as failure:  # noqa: BLE001  # it is reported
            error = f"{type(failure).__name__}: {failure}"[:300]
        ended = time.monotonic()
        log.write(
            "fault",
            k=k,
            how=fault.how,
            table=fault.table,
            begun=begun,
            # If everything kept working, no time is excused, however long the fault took.
            ended=ended if broken else begun,
            over=ended,
            error=error,
        )
        if fault.how == "promote":
            await insist(lambda: asyncio.to_thread(scene.servers.make_standby))


async def sabotage(scene: Scene, until: float) -> None:
    """Delete all registrations repeatedly. Without heartbeats, no watcher notices."""
    while time.monotonic() < until:
        with suppress(Exception):  # the server may be down
            await FAULTS["forget"](scene, plan.Fault("forget", "", 0.0, 0.0, 0.0))
        await asyncio.sleep(1)
