"""When clients come back: not all at once."""

from __future__ import annotations

import random
from typing import Final

_EARLIEST, _LATEST = 1.0, 5.0
JITTER: Final = 0.1
"""A stream's life is shorter than its longest by up to this part of it."""


def seconds() -> float:
    """After how many seconds a client should come back. Each gets another number."""
    return random.uniform(_EARLIEST, _LATEST)  # noqa: S311


def retry_after() -> dict[str, str]:
    """The header for it, which has whole seconds."""
    return {"Retry-After": str(round(seconds()))}


def life(longest: float) -> float:
    """How long a stream lives, in seconds. Streams that began together do not end together."""
    return longest * random.uniform(1 - JITTER, 1)  # noqa: S311
