"""For every type, a wait ends if the new value IS DISTINCT FROM the old one in PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import rowbell
from rowbell import RowWatcher
from rowbell._watch.values.forms import FORMS
from support.observed import execute
from support.tables import valued

# For each type: values that are equal although their text or storage differs, and values that are
# distinct although a driver converts them to the same Python value.
VALUES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "integer": ["1", "2"],
    "bigint": ["9007199254740993", "9007199254740992"],
    "numeric": ["1", "1.0", "1.00000000000000000001", "NaN", "Infinity", "-Infinity", "0", "-0"],
    "double precision": ["0", "-0", "1e-320", "NaN", "Infinity", "0.1", "0.30000000000000004"],
    "real": ["0.1", "0.10000001", "NaN", "-0", "0"],
    "money": ["1.00", "1.01", "-1.00"],
    "text": ["a", "A", "a ", "", "ä", "a\u0308"],
    "varchar(5)": ["a", "a ", ""],
    "char(3)": ["a", "a ", "A", ""],
    "bpchar": ["a", "a ", " a"],
    '"char"': ["a", "b", ""],
    "name": ["a", "A"],
    "bytea": ["\\x00", "\\x0000", ""],
    "citext": ["a", "A", "b"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"],
    "date": ["2026-01-01", "infinity", "-infinity", "9999-12-31", "0001-01-01", "0044-03-15 BC"],
    "timestamp": [
        "infinity",
        "9999-12-31 23:59:59.999999",
        "-infinity",
        "0001-01-01",
        "2026-01-01",
    ],
    "timestamptz": [
        *("infinity", "9999-12-31 23:59:59.999999Z", "2026-01-01 12:00Z", "2026-01-01 13:00+01"),
        *("0044-03-15 00:00Z BC", "2026-01-01 12:00:00.000001Z"),
    ],
    "time": ["00:00", "24:00", "23:59:59.999999"],
    "timetz": ["12:00+00", "13:00+01", "12:00+01", "24:00+00"],
    "interval": [
        *("1 year", "360 days", "365 days", "12 mons", "1 mon", "30 days", "24:00", "1 day"),
        *("-1 day 24:00", "00:00", "178000000 years"),
    ],
    "json": ['{"a": 1}', '{"a":1.0}', "null", '{"a": 0.123456789012345678}', "true", "1"],
    "jsonb": [
        *('{"a": 1}', '{"a": 1.0}', "null", "true", "1", '"1"', "[1, 2]", "[2, 1]"),
        *('{"a": 0.123456789012345678}', '{"a": 0.123456789012345679}', "1e400", "2e400"),
        *(str(list(range(40))), str([32, *range(1, 32), 0, *range(33, 40)])),
    ],
    "jsonpath": ["$.a", "$.b"],
    "xml": ["<a/>", "<a></a>"],
    "int[]": ["{1,2}", "[0:1]={1,2}", "{{1,2}}", "{}", "{1,NULL}", "{1}"],
    "numeric[]": ["{1}", "{1.0}", "{-1}", "{1.1}", "[2:2]={1}", "{-1,1}", "{1,-1}", "{{1,-1}}"],
    "text[]": ["{a}", "{A}", "{NULL}", '{"NULL"}'],
    "interval[]": ["{1 mon}", "{1 year}", "{365 days}"],
    "date[]": ["{infinity}", "{9999-12-31}"],
    "citext[]": ["{a}", "{A}", "{b}"],
    "int4range": ["[1,3)", "[1,2]", "empty", "(,)", "(1,3)"],
    "numrange": ["[1,2)", "[1.0,2.00)", "[1,2]", "empty", "[-1,2)", "(,-1)", "[-1,)", "[1,)"],
    "int8range": ["[5,6)", "[4294967300,4294967301)"],
    "tstzrange[]": ['{"[2026-01-01 12:00Z,)"}', '{"[2026-01-01 13:00+01,)"}', "{empty}"],
    "tstzrange": ["[2026-01-01 12:00Z,)", "[2026-01-01 13:00+01,)", "[2026-01-01 12:00Z,infinity)"],
    "daterange": ["[9999-12-31,infinity)", "[9999-12-31,)"],
    "nummultirange": ["{[1,2),[3,4)}", "{[1.0,2),[3,4)}", "{[1,2)}"],
    "floats": ["[0,1)", "[-0,1)", "[0,1]"],
    "pair": ["(1,a)", "(1.0,a)", "(-1,a)", "(1,A)", "(,a)", "(1,)"],
    "nested": ['("(1,a)","{}","{1 mon}")', '("(1,a)","{}","{1 day}")', '("(2,a)","{}","{1 mon}")'],
    "mood": ["sad", "ok"],
    "mood[]": ["{sad}", "{ok}", "[3:3]={sad}"],
    "price": ["1", "1.0", "1.00001"],
    "prices": ["{1}", "{1.0}", "{2}"],
    "short": ["a", "a "],
    "hstore": ["a=>1", "a=>2", "a=>NULL", 'a=>"NULL"'],
    "point": ["(0,1)", "(1,0)"],
    "lseg": ["[(0,0),(1,1)]", "[(0,0),(2,2)]"],
    "box": ["(1,1),(0,0)", "(2,2),(1,1)"],
    "path": ["((0,0),(1,1))", "[(0,0),(1,1)]", "((0,0),(2,2))"],
    "polygon": ["((0,0),(1,1))", "((0,0),(2,2))"],
    "line": ["{1,2,3}", "{2,4,6}", "{1,2,4}"],
    "circle": ["<(0,0),1>", "<(1,1),1>"],
    "inet": ["10.0.0.1", "10.0.0.1/24", "::1"],
    "cidr": ["10.0.0.0/24", "10.0.0.0/25"],
    "macaddr": ["08:00:2b:01:02:03", "08:00:2b:01:02:04"],
    "bit(4)": ["1010", "1011"],
    "varbit": ["1", "10", "01"],
    "tsvector": ["a b", "b a", "a:1A b", "a"],
    "tsquery": ["a & b", "b & a"],
    "pg_lsn": ["0/1", "0/2"],
    "oid": ["1", "4294967295"],
    "regclass": ["pg_class", "pg_type"],
    "int2vector": ["1 2", "2 1"],
    "aclitem[]": ["{=r/pg_monitor}", "{=w/pg_monitor}"],
    "bounds": ["({1})", "({2})", '("[2:2]={1}")'],
}
AS_STORED = {"xml", "jsonpath", "point", "polygon", "box", "path", "circle", "line"}
"""The types for which PostgreSQL has no equality, or compares only the size."""


def expected_of(type_: str) -> str:
    """The SQL that says whether a change from ``before`` to ``after`` must end a wait."""
    before, after = (f"CAST(CAST(:{name} AS text) AS {type_})" for name in ("before", "after"))
    if type_ == "json":
        before, after = f"CAST({before} AS jsonb)", f"CAST({after} AS jsonb)"
    elif type_ in AS_STORED:
        before, after = f"CAST({before} AS text)", f"CAST({after} AS text)"
    return f"SELECT {before} IS DISTINCT FROM {after}"


async def check(
    engine: AsyncEngine, type_: str, pairs: list[tuple[str | None, str | None]]
) -> None:
    """Change values of rows, and check that exactly the waits with distinct values end."""
    model = valued()
    await execute(
        engine,
        "DROP TABLE IF EXISTS valued",
        f"CREATE TABLE valued (id int PRIMARY KEY, value {type_})",
    )
    store = f"UPDATE valued SET value = CAST(CAST(:value AS text) AS {type_}) WHERE id = :id"
    marker = len(pairs) + 1
    marking = next(value for pair in pairs for value in pair if value is not None)
    async with engine.begin() as connection:
        await connection.run_sync(rowbell.install_triggers, model)
        await connection.exec_driver_sql(f"INSERT INTO valued SELECT generate_series(1, {marker})")
        distinct = [
            await connection.scalar(text(expected_of(type_)), {"before": before, "after": after})
            for before, after in pairs
        ]
    for mode in ("listen", "poll"):
        async with engine.begin() as connection:
            for id_, (before, _) in enumerate(pairs, 1):
                await connection.execute(text(store), {"value": before, "id": id_})
            await connection.execute(text(store), {"value": None, "id": marker})
        async with RowWatcher(engine, mode=mode, recheck=None) as watcher:
            waits = [
                asyncio.create_task(
                    watcher.wait_for_change(
                        model, id_, until=None, columns=["value"], interval=0.02, timeout=30
                    )
                )
                for id_ in range(1, marker + 1)
            ]
            for wait in waits:  # instances are not loaded: drivers cannot convert some values
                wait.add_done_callback(lambda task: task.cancelled() or task.exception())
            await watcher.reached(
                lambda now: now.armed == marker if mode == "listen" else now.rereads >= marker  # noqa: B023
            )
            async with engine.begin() as connection:
                for id_, (_, after) in enumerate(pairs, 1):
                    await connection.execute(text(store), {"value": after, "id": id_})
            ending = [wait for wait, should in zip(waits, distinct, strict=False) if should]
            if ending:
                await asyncio.wait(ending, timeout=10)
            # The read for the marker comes after the reads for all earlier notifications.
            async with engine.begin() as connection:
                await connection.execute(text(store), {"value": marking, "id": marker})
            await asyncio.wait({waits[-1]})
            ended = [wait.done() for wait in waits[:-1]]
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        wrong = [
            (mode, *pair, "ended" if was else "did not end")
            for pair, was, should in zip(pairs, ended, distinct, strict=True)
            if was != should
        ]
        assert not wrong


async def skip_without_xml(engine: AsyncEngine) -> None:
    try:
        await execute(engine, "SELECT CAST('<a/>' AS xml)")
    except DBAPIError:
        pytest.skip("this server was built without XML")


@pytest.mark.parametrize("type_", VALUES)
async def test_a_wait_ends_if_the_values_are_distinct(typed: AsyncEngine, type_: str) -> None:
    """Armed and polled, independent of the driver's conversion."""
    if type_ == "xml":
        await skip_without_xml(typed)
    await check(typed, type_, list(itertools.permutations([*VALUES[type_], None], 2)))


NUMBERS = st.decimals(-1000, 1000).map(str) | st.sampled_from(
    ["0", "0.0", "-0", "1", "1.0", "10e-1", "1e3", "1000", "0.1", "0.10", "1e400"]
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([1.0, 0.1, -0.0, "1", "a", "A"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
).map(json.dumps)
INTERVALS = st.tuples(*(st.integers(-3, 3) for _ in range(3))).map(
    lambda n: f"{n[0]} mons {n[1] * 30} days {n[2] * 24} hours"
)
BOUNDED = st.tuples(st.integers(0, 1), NUMBERS).map(lambda n: f"[{n[0]}:{n[0]}]={{{n[1]}}}")


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("numeric", NUMBERS),
        ("jsonb", DOCUMENTS),
        ("json", DOCUMENTS),
        ("interval", INTERVALS),
        ("numeric[]", BOUNDED),
        ("numrange", NUMBERS.map("[{},)".format)),
    ],
)
def test_a_wait_ends_if_values_drawn_by_chance_are_distinct(
    rowbell_database: URL, type_: str, values: st.SearchStrategy[str]
) -> None:
    @settings(max_examples=3, deadline=None, database=None, phases=[Phase.generate])
    @given(st.lists(st.tuples(values, values), min_size=20, max_size=40))
    def drawn(pairs: list[tuple[str, str]]) -> None:
        async def checked() -> None:
            engine = create_async_engine(rowbell_database)
            try:
                await check(engine, type_, [*pairs])
            finally:
                await engine.dispose()

        asyncio.run(checked())

    drawn()


async def test_the_table_of_types_is_complete(engine: AsyncEngine) -> None:
    """Each of PostgreSQL's built-in types is in the table."""
    async with engine.connect() as connection:
        found = await connection.scalars(
            text(
                "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
                " AND typtype IN ('b', 'r', 'm') AND typcategory NOT IN ('A', 'Z')"
            )
        )
        names = set(found)
    assert not names - set(FORMS)
    assert len(names) > 60
