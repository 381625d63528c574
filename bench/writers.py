"""What triggers cost writers of rows that nobody watches: pgbench, the triggers in random turn.

Run it with ``.venv/bin/python bench/writers.py``; it needs pgbench (Debian: postgresql-contrib).
Each round updates random rows of a table of 100,000 under each trigger; ratios are formed within
a round, against the same table without a trigger.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rowbell.embedded import EmbeddedServer
from rowbell.watch.schema import schema_statements
from rowbell.watch.triggers import ForEach, TableColumn, TableTriggers

ROWS = 100_000
UPDATE = f"\\set id random(1, {ROWS})\nUPDATE t SET n = n + 1 WHERE id = :id;\n"
INSTALLED = TableTriggers(None, "t", (TableColumn("id"),), ForEach.STATEMENT)
TABLES = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT"
NOTHING = "BEGIN RETURN NULL; END"
PROBE = (
    "BEGIN IF EXISTS (SELECT FROM rowbell.interest AS i WHERE i.relation = TG_RELID "
    "AND i.key = hash_record_extended(ROW(OLD.id), 0)) THEN RAISE NOTICE 'watched'; END IF; "
    "RETURN NULL; END"
)
NOTIFY = "BEGIN PERFORM pg_notify('t', NEW.id::text); RETURN NULL; END"


def plain(body: str, when: str) -> list[str]:
    """A function of that body, and a trigger that runs it."""
    return [
        f"CREATE OR REPLACE FUNCTION tried() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
        f"CREATE TRIGGER tried AFTER UPDATE ON t {when} EXECUTE FUNCTION tried()",
    ]


def variant(edit: Callable[[str], str]) -> list[str]:
    """Rowbell's own function, edited."""
    function = edit(INSTALLED.create_function())
    return [
        function.replace(f"rowbell.{INSTALLED.function_name}", "tried"),
        f"CREATE TRIGGER tried AFTER UPDATE ON t {TABLES} EXECUTE FUNCTION tried('id')",
    ]


def without_isolation(function: str) -> str:
    """The function that does not ask for the writer's isolation level."""
    start = function.index("IF current_setting('transaction_isolation')")
    end = function.index("ELSIF TG_OP = 'TRUNCATE'")
    return function[:start] + function[end:].replace("ELSIF", "IF", 1)


def without_settings(function: str) -> str:
    """Besides, it has no settings of its own and runs with the writer's rights."""
    bare = without_isolation(function).replace("SECURITY DEFINER\n", "\n")
    return re.sub(r"SET search_path.*extra_float_digits = 1\n", "\n", bare)


def without_guard(function: str) -> str:
    """Besides, it has no block that turns errors into warnings."""
    bare = without_settings(function).replace("BEGIN\n  BEGIN\n", "BEGIN\n", 1)
    start, end = bare.index("  EXCEPTION WHEN OTHERS"), bare.index("  RETURN NULL;")
    return bare[:start] + bare[end:]


TRIGGERS: dict[str, list[str]] = {
    "none": [],
    "statement, does nothing": plain(NOTHING, TABLES),
    "rowbell": variant(lambda function: function),
    "- without asking for the isolation": variant(without_isolation),
    "- nor settings and definer's rights": variant(without_settings),
    "- nor a guard": variant(without_guard),
    "row, the same probe and nothing else": plain(PROBE, "FOR EACH ROW"),
    "row, WHEN a declared column changes": plain(
        NOTHING, "FOR EACH ROW WHEN (OLD.s IS DISTINCT FROM NEW.s)"
    ),
    "row, pg_notify": plain(NOTIFY, "FOR EACH ROW"),
}


async def execute(server: EmbeddedServer, statements: Iterable[str]) -> None:
    """Execute each in a transaction of its own."""
    engine = create_async_engine(server.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


def prepared(watched: int) -> list[str]:
    """The table, with that many of its rows watched by somebody."""
    return [
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, s text NOT NULL DEFAULT '')"
        " WITH (fillfactor = 50)",
        f"INSERT INTO t SELECT i FROM generate_series(1, {ROWS}) AS i",
        *schema_statements(),
        "INSERT INTO rowbell.interest SELECT 't'::regclass, i, 1 "
        f"FROM generate_series(1, {watched}) AS i",
        "VACUUM ANALYZE",
    ]


def throughput(server: EmbeddedServer, script: Path, clients: int, seconds: int) -> float:
    """The transactions a second that pgbench reports."""
    pgbench = shutil.which("pgbench")
    if pgbench is None:
        raise SystemExit("pgbench is not installed (Debian: apt install postgresql-contrib)")
    options = f"-n -M prepared -j 2 -c {clients} -T {seconds} -U postgres -f".split()
    command = [pgbench, "-h", str(server.directory), *options, str(script), "postgres"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    found = re.search(r"tps = ([\d.]+)", out)
    assert found, out
    return float(found[1])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--watched", type=int, default=10_000)
    given = parser.parse_args()
    print(f"{given.watched:,} other rows watched; {given.rounds} rounds of {given.seconds} s")
    with EmbeddedServer({"max_connections": 200}) as server, tempfile.TemporaryDirectory() as work:
        script = Path(work) / "update.sql"
        script.write_text(UPDATE)
        asyncio.run(execute(server, prepared(given.watched)))
        for clients in given.clients:
            rounds: list[dict[str, float]] = []
            for number in range(given.rounds):
                rounds.append({})
                for name in random.sample(list(TRIGGERS), len(TRIGGERS)):
                    print(f"{clients} clients, round {number + 1}: {name}", end="\033[K\r")
                    asyncio.run(execute(server, [*TRIGGERS[name], "VACUUM t", "CHECKPOINT"]))
                    rounds[-1][name] = throughput(server, script, clients, given.seconds)
                    asyncio.run(execute(server, ["DROP TRIGGER IF EXISTS tried ON t"]))
            print(f"{clients} clients: transactions a second, and ratio to no trigger\033[K")
            for name in TRIGGERS:
                ratios = [taken[name] / taken["none"] for taken in rounds]
                per_second = median(taken[name] for taken in rounds)
                span = f"[{min(ratios):.2f}..{max(ratios):.2f}]"
                print(f"  {name:38} {per_second:7.0f} {median(ratios):5.2f} {span}")


if __name__ == "__main__":
    main()
