"""The faults of relays and of NATS.

One of two relays, or one of three NATS servers, is hit. So nothing is excused: the others have to
go on.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from faults import Breaking, Scene
    from plan import Fault
    from relays import Fleet, Program

STUTTER: Final = 0.4
"""How long a slow program is stopped at a time, in seconds."""


def _relay(fleet: Fleet, fault: Fault, *, on: str = "") -> Program:
    """A relay: mostly one that leads."""
    relays = [relay for relay in fleet.relays if on in relay.name]
    leaders = [relay for relay in relays if relay.leads]
    among = leaders if leaders and fault.stretch < 4 else relays  # few faults last longer
    return among[int(fault.choice * len(among))]


def _broker(fleet: Fleet, fault: Fault) -> Program:
    return fleet.brokers[int(fault.choice * len(fleet.brokers))]


async def _end(program: Program, number: signal.Signals, seconds: float) -> None:
    await asyncio.to_thread(program.end, number)
    await asyncio.sleep(seconds)
    program.start()


async def _freeze(program: Program, seconds: float) -> None:
    program.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        program.send(signal.SIGCONT)


async def _slow_down(program: Program, seconds: float) -> None:
    """All that passes through it is late."""
    for _ in range(int(seconds / STUTTER)):
        await _freeze(program, STUTTER)
        await asyncio.sleep(STUTTER / 20)


async def _cut_off(fleet: Fleet, program: Program, seconds: float) -> None:
    if not fleet.network.is_real:
        return
    fleet.network.cut(program.host)
    try:
        await asyncio.sleep(seconds)
    finally:
        fleet.network.mend(program.host)


async def _kill_a_relay(scene: Scene, fault: Fault) -> bool:
    await _end(_relay(scene.fleet, fault), signal.SIGKILL, fault.stretch)
    return False


async def _end_a_relay(scene: Scene, fault: Fault) -> bool:
    await _end(_relay(scene.fleet, fault), signal.SIGTERM, fault.stretch)
    return False


async def _freeze_a_relay(scene: Scene, fault: Fault) -> bool:
    await _freeze(_relay(scene.fleet, fault), 2 * fault.stretch)
    return False


async def _slow_relay(scene: Scene, fault: Fault) -> bool:
    await _slow_down(_relay(scene.fleet, fault), 2 * fault.stretch)
    return False


async def _cut_a_relay_off(scene: Scene, fault: Fault) -> bool:
    await _cut_off(scene.fleet, _relay(scene.fleet, fault, on="nats"), 2 * fault.stretch)
    return False


async def _kill_nats(scene: Scene, fault: Fault) -> bool:
    await _end(_broker(scene.fleet, fault), signal.SIGKILL, fault.stretch)
    return False


async def _freeze_nats(scene: Scene, fault: Fault) -> bool:
    await _freeze(_broker(scene.fleet, fault), 2 * fault.stretch)
    return False


async def _slow_nats(scene: Scene, fault: Fault) -> bool:
    await _slow_down(_broker(scene.fleet, fault), 2 * fault.stretch)
    return False


async def _cut_nats_off(scene: Scene, fault: Fault) -> bool:
    await _cut_off(scene.fleet, _broker(scene.fleet, fault), 2 * fault.stretch)
    return False


FLEET_FAULTS: Final[dict[str, Breaking]] = {
    "kill a relay": _kill_a_relay,
    "end a relay": _end_a_relay,
    "freeze a relay": _freeze_a_relay,
    "slow relay": _slow_relay,
    "cut a relay off": _cut_a_relay_off,
    "kill NATS": _kill_nats,
    "freeze NATS": _freeze_nats,
    "slow NATS": _slow_nats,
    "cut NATS off": _cut_nats_off,
}
"""The faults, by their names in the plan."""
