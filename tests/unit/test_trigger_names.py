"""The names of trigger functions."""

from __future__ import annotations

from rowbell._watch.database.triggers import ForEach, TableTriggers
from rowbell._watch.values.key_hash import KeyColumn


def test_the_name_of_a_trigger_function_is_short_whatever_the_table_is_called() -> None:
    """PostgreSQL truncates names to 63 bytes. Two truncated names could be equal."""
    first = TableTriggers(None, "t" * 200, (KeyColumn("k" * 200),), ForEach.STATEMENT)
    second = TableTriggers(None, "t" * 200, (KeyColumn("k" * 201),), ForEach.STATEMENT)
    assert len(first.function_name) < 63
    assert first.function_name != second.function_name
