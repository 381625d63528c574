"""The text of the schema's SQL."""

from __future__ import annotations

import re

from rowbell._watch.database import schema
from rowbell._watch.database.schema import FUNCTIONS, sql


def test_the_numbers_in_sql_are_those_in_python() -> None:
    def has(name: str, *numbers: object) -> bool:
        return all(re.search(rf"(?<!\d){number}(?!\d)", sql(name)) for number in numbers)

    assert has("notify", schema.KEYS_PER_PAYLOAD, schema.KEYS_PER_TRANSACTION)
    assert has("compact", schema.COMPACT_BEYOND)
    assert has("register", schema.REGISTRATIONS_PER_ROLE)
    assert has("schema_version", f"{schema.SCHEMA_VERSION}, 1")
    for name in ("table_version", "obstacle", "untrusted_owners"):
        assert all(f"'{trigger}'" in sql(name) for trigger in schema.TRIGGERS)


def test_each_function_is_in_the_file_of_its_name_and_pins_its_search_path() -> None:
    for name in FUNCTIONS:
        header = sql(name).split("$rowbell$")[0]
        assert header.startswith(f"CREATE OR REPLACE FUNCTION rowbell.{name}(")
        assert "SET search_path = pg_catalog, pg_temp" in header
    assert "SET search_path = pg_catalog, pg_temp" in sql("trigger_guard")
