"""Times and the growth of the waits between tries."""

from __future__ import annotations

import pytest

from rowbell import InvalidArgumentError, Timing


def test_times_are_positive() -> None:
    with pytest.raises(InvalidArgumentError, match=r"timing\.heartbeat"):
        Timing(heartbeat=0)
