"""What several processes of a test run share: made by the first to come, ended by the last."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


@contextmanager
def shared(
    directory: Path, name: str, make: Callable[[], str], end: Callable[[str], None]
) -> Generator[str]:
    """Share an object between processes: the first creates it, the last destroys it.

    Args:
        directory: Where all of the processes keep what they know of it.
        name: What it is called there.
        make: Makes it, in the first process, and returns how the others find it.
        end: Ends it, in the last process; the argument is what ``make`` has returned. It runs
            also where some process was killed before it could leave.

    Yields:
        What ``make`` has returned.
    """
    try:
        import fasteners  # noqa: PLC0415  # not all users have the extra
    except ImportError as error:
        raise ImportError("rowbell's fixtures need more: pip install rowbell[pytest]") from error

    lock = fasteners.InterProcessLock(directory / f"rowbell-{name}.lock")
    record = directory / f"rowbell-{name}.json"
    with lock:
        found, users = _read(record)
        if found is None:
            found = make()
        _write(record, found, [*users, os.getpid()])
    try:
        yield found
    finally:
        with lock:
            _, users = _read(record)
            others = [pid for pid in users if pid != os.getpid()]
            if others:
                _write(record, found, others)
            else:
                record.unlink()
                end(found)


def _read(record: Path) -> tuple[str | None, list[int]]:
    if not record.exists():
        return None, []
    found = json.loads(record.read_text())
    return found["value"], [pid for pid in found["users"] if _is_alive(pid)]


def _write(record: Path, value: str, users: list[int]) -> None:
    record.write_text(json.dumps({"value": value, "users": users}))


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # os.kill() with signal 0 would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
