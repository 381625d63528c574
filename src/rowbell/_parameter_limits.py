"""How many parameters a statement may have."""

from __future__ import annotations

from typing import Final

_MAX_PARAMETERS: Final = 32_767  # of one statement, in asyncpg's messages
_MAX_ROWS: Final = 1_000  # of a row-valued IN list: the parser nests it, and its stack is limited


def longest_in_list(columns: int, *, besides: int = 0) -> int:
    """How many keys the IN list of a statement may have.

    Args:
        columns: The columns of a key.
        besides: The statement's other parameters.
    """
    return _MAX_PARAMETERS - besides if columns == 1 else _MAX_ROWS
