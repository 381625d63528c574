"""Lock timeouts are parsed like PostgreSQL parses them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowbell import InvalidArgumentError
from rowbell._lock_timeout import LockTimeout


@given(
    number=st.one_of(
        st.integers(0, 10**10).map(str),
        st.decimals(0, 10**6, places=3).map(str),
        st.sampled_from(["1.", ".5", "007", "0.0005"]),
    ),
    unit=st.sampled_from(["", "us", "ms", "s", "min", "h", "d", "S", "m", "sec"]),
    space=st.sampled_from(["", " "]),
)
@settings(max_examples=300, deadline=None)
def test_a_text_is_read_as_postgresql_reads_it(number: str, unit: str, space: str) -> None:
    """To the millisecond. What PostgreSQL rounds to 0, which means no limit, is 1 ms here."""
    units = {"": "1", "us": "0.001", "ms": "1", "s": "1e3", "min": "6e4", "h": "3.6e6"}
    wanted = Decimal(number) * Decimal({**units, "d": "8.64e7"}.get(unit, "0"))
    if 0 < wanted <= 2**31 - 1:
        milliseconds = LockTimeout.of(f"{number}{space}{unit}").milliseconds
        assert 0 <= milliseconds - wanted < 1
        assert milliseconds >= 1
    else:
        with pytest.raises(InvalidArgumentError):
            LockTimeout.of(f"{number}{space}{unit}")
