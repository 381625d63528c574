"""Objects that the processes of a test run share: the first creates one, the last destroys it."""

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
        directory: A directory that all of the processes use. The lock and the record are in it.
        name: The object's name in that directory.
        make: Creates the object, in the first process. It returns what the others need to find it.
        end: Destroys the object, in the last process. Its argument is what ``make`` has returned.
            It also runs if one of the processes was killed.

    Yields:
        What ``make`` has returned.
    """
    try:
        import fasteners  # noqa: PLC0415  # an optional dependency
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
        return True  # on Windows, os.kill() with signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
