"""Processes that measure: each is a script of this folder, and says how it is in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
LONGEST_LINE = 2**20


class Processes:
    """Some processes that run the same script.

    Args:
        script: Its name.
        count: Their number.
        given: What they are told, besides their number.
    """

    def __init__(self, script: str, count: int, **given: Any) -> None:
        self._script = str(HERE / script)
        self._given = [json.dumps({"number": number, **given}) for number in range(count)]
        self._said: list[dict[str, float]] = [{} for _ in range(count)]
        self._processes: list[asyncio.subprocess.Process] = []
        self._reading: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        for number, given in enumerate(self._given):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(self._script, given),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
            self._processes.append(process)
            self._reading.append(asyncio.create_task(self._read(number, process)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()  # that tells it to end
        await asyncio.gather(*self._reading)
        for process in self._processes:
            await process.wait()

    @property
    def pids(self) -> list[int]:
        """Their process IDs."""
        return [process.pid for process in self._processes]

    def total(self, name: str) -> float:
        """The sum of what all say of that."""
        return sum(said.get(name, 0.0) for said in self._said)

    def most(self, name: str) -> float:
        """The highest that any says of that."""
        return max(said.get(name, 0.0) for said in self._said)

    async def reached(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until a condition on what they say is true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._heard.clear()
                await self._heard.wait()

    async def _read(self, number: int, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._said[number] = json.loads(line)
            self._heard.set()
        if self._said[number].get("ended") != 1:
            raise RuntimeError(f"{self._script} has ended")


async def told_to_end() -> None:
    """Wait until the process that has started this one wants it to end."""
    await asyncio.to_thread(sys.stdin.read)


def say(**facts: float) -> None:
    """Say how this process is."""
    print(json.dumps(facts), flush=True)


def cpu(pids: Collection[int]) -> float:
    """The processor time that these processes have used, in seconds."""
    used = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")
