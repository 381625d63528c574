"""Keys of every type, and the settings of the sessions that write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import CITEXT, INET
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.types import TypeEngine

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1))  # noqa: DTZ001
TYPES: dict[str, tuple[TypeEngine[Any], st.SearchStrategy[Any]]] = {
    "smallint": (SmallInteger(), st.integers(-(2**15), 2**15 - 1)),
    "integer": (Integer(), st.integers(-(2**31), 2**31 - 1)),
    "bigint": (BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "text": (Text(), TEXT | st.integers(3_000, 20_000).map(lambda n: "ü" * n)),
    "char": (String(50), TEXT),
    "citext": (CITEXT(), st.text("aAbBzZ", min_size=1, max_size=5)),
    "uuid": (Uuid(), st.uuids()),
    "bytea": (LargeBinary(), st.binary(max_size=50)),
    "numeric": (
        Numeric(),
        st.decimals(allow_nan=False, allow_infinity=False, places=5) | st.just(Decimal("NaN")),
    ),
    "double": (Double(), st.floats(width=64)),
    "boolean": (Boolean(), st.booleans()),
    "timestamptz": (
        DateTime(timezone=True),
        TIMES.map(lambda at: at.replace(tzinfo=UTC)),
    ),
    "timestamp": (DateTime(), TIMES),
    "date": (Date(), st.dates(date(1, 1, 1), date(9999, 1, 1))),
    "interval": (Interval(), st.timedeltas(timedelta(-999), timedelta(999))),
    "enum": (Enum("a", "B c", "'", name="letter"), st.sampled_from(["a", "B c", "'"])),
    "inet": (INET(), st.ip_addresses(v=4)),
}
WRITERS = (
    (
        "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'; SET bytea_output = 'escape';"
        " SET extra_float_digits = -10; SET IntervalStyle = 'sql_standard'"
    ),
    (
        "SET TimeZone = 'America/St_Johns'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = 3;"
        " SET standard_conforming_strings = off; SET search_path = ''"
    ),
)


async def create(url: URL, model: type[Any]) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE EXTENSION citext"))
        await connection.run_sync(model.__table__.metadata.create_all)
    await engine.dispose()


def without_equals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove duplicates: for PostgreSQL, 0.0 and -0.0 are the same key."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = row["k0"]
        found[repr(key + 0.0) if isinstance(key, float) else repr(key)] = row
    return list(found.values())
