"""``rowbell status``, ``sql``, ``install``, ``upgrade``, ``remove`` and ``watch``."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell.cli import triggers
from rowbell.cli.output import escaped
from rowbell.cli.problem import redacted
from support.command import Called, call, called
from support.observed import execute
from support.paths import ROOT
from support.roles import connected


@pytest.fixture
def bare(database: URL) -> URL:
    """A database with a table that has no triggers yet."""
    asyncio.run(
        execute(
            database,
            "CREATE TABLE parcels (id uuid PRIMARY KEY, status text, weight int)",
            'CREATE TABLE "Odd parcels" ("Id" int PRIMARY KEY, part text)',
            "CREATE TABLE keyless (n int)",
        )
    )
    return database


def states(result: Called) -> dict[str, str]:
    return {row["table"]: row["state"] for row in result.json}


def test_install_status_upgrade_and_remove(bare: URL) -> None:
    assert states(call("status", "parcels", "--json", url=bare)) == {"public.parcels": "missing"}
    assert call("status", "parcels", url=bare).code == 1
    result = call("install", "parcels", "Odd parcels", url=bare)
    assert (result.code, result.err) == (0, "")
    assert "1 of 2: public.parcels installed" in result.out
    assert call("install", "parcels", "--json", url=bare).json == [
        {"table": "public.parcels", "result": "unchanged"}
    ]
    assert call("status", "parcels", '"Odd parcels"', url=bare).code == 0
    asyncio.run(execute(bare, "DROP TRIGGER rowbell_delete ON parcels"))
    assert "public.parcels" in call("upgrade", "--dry-run", url=bare).out
    assert "public.parcels upgraded" in call("upgrade", url=bare).out
    assert call("upgrade", "--dry-run", "--json", url=bare).json == []
    everything = states(call("status", "--json", url=bare))
    assert everything["public.parcels"] == "installed"
    assert "public.orders" in everything
    assert "public.parcels removed" in call("remove", "parcels", url=bare).out
    assert states(call("status", "parcels", "--json", url=bare)) == {"public.parcels": "missing"}


def test_options_of_triggers(bare: URL) -> None:
    assert call("install", "parcels", "--columns", "status", "--inserts", url=bare).code == 0
    [row] = call("status", "parcels", "--json", url=bare).json
    assert (row["columns"], row["inserts"], row["state"]) == ("status", True, "installed")
    assert call("upgrade", url=bare).code == 0
    assert call("status", "parcels", "--json", url=bare).json == [row]


def test_the_sql_does_what_install_does(bare: URL) -> None:
    for command in (["sql", "parcels"], ["install", "parcels", "--dry-run"]):
        script = call(*command, url=bare)
        assert script.code == 0
        assert script.out.startswith("-- rowbell 0.")
    assert states(call("status", "parcels", "--json", url=bare)) == {"public.parcels": "missing"}

    async def run() -> None:
        async with connected(bare) as connection:
            await connection.execute(script.out)

    asyncio.run(run())
    assert call("status", "parcels", url=bare).code == 0
    drops = call("remove", "parcels", "--dry-run", url=bare)
    assert "DROP TRIGGER IF EXISTS rowbell_update" in drops.out
    assert call("status", "parcels", url=bare).code == 0


async def test_a_table_in_use_is_tried_again(
    engine: AsyncEngine, database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that stays in use is exit code 1, and says what to do."""
    await execute(database, "CREATE TABLE parcels (id int PRIMARY KEY)")
    monkeypatch.setattr(triggers, "PAUSE", 0.05)
    arguments = ["install", "parcels", "--lock-timeout", "100ms"]
    async with engine.connect() as writer:
        await writer.execute(text("LOCK TABLE parcels IN ROW EXCLUSIVE MODE"))
        monkeypatch.setattr(triggers, "ATTEMPTS", 2)
        result = await called(*arguments, url=database)
        assert result.code == 1
        assert "parcels is in use: attempt 1 of 2" in result.out
        assert "--lock-timeout" in result.err
        monkeypatch.setattr(triggers, "ATTEMPTS", 100)
        installing = asyncio.create_task(called(*arguments, url=database))
        await asyncio.sleep(0.3)  # some attempts fail; how many does not matter
        await writer.rollback()
        assert (await installing).code == 0


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell


class Base(DeclarativeBase):
    pass


@rowbell.watched(inserts=True)
class Parcel(Base):
    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class Unwatched(Base):
    __tablename__ = "unwatched"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


def test_models_and_the_database_may_be_named_in_pyproject(
    bare: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "command_shop.py").write_text(MODELS)
    url = bare.set(drivername="postgresql").render_as_string(hide_password=False)
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.rowbell]\nurl = "{url}"\nmodels = "command_shop:Base"\n'
    )
    (tmp_path / "below").mkdir()
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert call("install").code == 0
    [row] = call("status", "--json").json
    assert (row["table"], row["inserts"]) == ("parcels", True)


def test_the_database_may_be_named_by_libpq(
    bare: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    service = tmp_path / "services"
    host, port = bare.query.get("host") or bare.host, bare.port or 5432
    service.write_text(
        f"[shop]\nhost={host}\nport={port}\nuser={bare.username}\ndbname={bare.database}\n"
        + (f"password={bare.password}\n" if bare.password else "")
    )
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv("PGSERVICE", "shop")
    assert call("status", "orders").code == 0


async def watching(database: URL, *arguments: str) -> asyncio.Task[Called]:
    """A command that has begun to wait."""
    task = asyncio.create_task(called("watch", *arguments, url=database))
    async with connected(database) as connection:
        while not await connection.fetchval("SELECT count(*) FROM rowbell.registration"):
            assert not task.done(), task.result()
            await asyncio.sleep(0.05)  # another process registers, which sets no event here
    return task


async def test_a_row_is_watched_for_the_columns_that_its_triggers_name(
    orders: AsyncEngine, database: URL
) -> None:
    """So it is woken, and a change of another column is not told."""
    assert (await called("install", "orders", "--columns", "status", url=database)).code == 0
    shown = await watching(database, "orders", "1")
    await execute(database, "UPDATE orders SET note = 'a note' WHERE id = 1")
    await execute(database, "UPDATE orders SET status = 'paid' WHERE id = 1")
    result = await shown
    assert "new → paid" in result.out
    assert result.err == ""


async def test_a_rows_change_is_shown(orders: AsyncEngine, database: URL) -> None:
    shown = await watching(database, "orders", "1")
    await execute(database, "UPDATE orders SET status = E'paid\\x1b[31m' WHERE id = 1")
    result = await shown
    assert result.code == 0
    assert "new → paid\\x1b[31m" in result.out
    assert "\x1b[31m" not in result.out


async def test_until_and_follow_and_json(orders: AsyncEngine, database: URL) -> None:
    shown = await watching(database, "orders", "1", "--until", "n=2", "--json", "--columns", "n")
    for n in (1, 2):
        await execute(database, f"UPDATE orders SET n = {n} WHERE id = 1")
    lines = [json.loads(line) for line in (await shown).out.splitlines()]
    assert (lines[0]["n"], lines[-1]["n"]) == (0, 2)
    shown = await watching(database, "orders", "2", "--follow")
    await execute(database, "UPDATE orders SET n = 1 WHERE id = 2")
    await execute(database, "DELETE FROM orders WHERE id = 2")
    assert "the row was deleted" in (await shown).out


def test_no_change_within_the_timeout_is_exit_code_1(database: URL) -> None:
    asyncio.run(execute(database, "INSERT INTO orders VALUES (1, 'new', NULL, 0)"))
    result = call("watch", "orders", "1", "--timeout", "0.3", url=database)
    assert (result.code, "no change within 0.3 s" in result.out) == (1, True)


def test_the_sql_is_for_the_table_as_it_is(bare: URL) -> None:
    """Partitioned, or with triggers that it should not have any more."""
    asyncio.run(execute(bare, "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)"))
    assert call("install", "parcels", "--inserts", url=bare).code == 0

    async def run(script: str) -> None:
        async with connected(bare) as connection:
            await connection.execute(script)

    for table in ("parted", "parcels"):
        asyncio.run(run(call("sql", table, url=bare).out))
        [row] = call("status", table, "--json", url=bare).json
        assert (row["state"], row["inserts"]) == ("installed", False)


def test_a_table_that_fails_stops_no_other(bare: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "ATTEMPTS", 1)
    asyncio.run(execute(bare, "CREATE TABLE other (id int PRIMARY KEY)"))

    async def install() -> Called:
        async with connected(bare) as writer, writer.transaction():
            await writer.execute("LOCK TABLE parcels IN ROW EXCLUSIVE MODE")
            arguments = ["install", "parcels", "other", "--json", "--lock-timeout", "50ms"]
            return await called(*arguments, url=bare)

    result = asyncio.run(install())
    assert result.code == 1
    assert result.json == [
        {"table": "public.parcels", "result": "failed"},
        {"table": "public.other", "result": "installed"},
    ]
    assert "parcels" in result.err


async def test_a_view_of_a_stranger_holds_up_no_installation(database: URL) -> None:
    """It may depend on a trigger function, which is then left."""
    await execute(database, "CREATE TABLE parcels (id int PRIMARY KEY, q money)")
    assert (await called("install", "parcels", "--columns", "q", url=database)).code == 0
    async with connected(database) as stranger:
        function = await stranger.fetchval(
            "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = 'parcels'::regclass"
        )
        await stranger.execute(f"CREATE TEMP VIEW held AS SELECT '{function}'::regproc AS f")
        assert (await called("install", "parcels", url=database)).code == 0
        assert (await called("remove", "parcels", url=database)).code == 0


def test_digits_are_a_name_and_no_oid(bare: URL) -> None:
    async def oid() -> int:
        async with connected(bare) as connection:
            return int(await connection.fetchval("SELECT 'orders'::regclass::oid"))

    result = call("status", str(asyncio.run(oid())), url=bare)
    assert (result.code, "there is no table" in result.err) == (2, True)


PROBLEMS = {
    "no such table": (["status", "parcel"], "did you mean parcels"),
    "no table named": (["install"], "name a table, or give --models"),
    "no primary key": (["install", "keyless"], "has no primary key"),
    "no key": (["watch", "parcels", "7"], "'7' is no value of id"),
    "a key of several parts": (["watch", "seats", "A"], "has 2 parts: row,number"),
    "a condition that is none": (
        ["watch", "Odd parcels", "1", "--until", "gone"],
        "takes column=value",
    ),
    "a row that does not exist": (["watch", "Odd parcels", "1"], "not found"),
    "a column that does not exist": (["install", "parcels", "--columns", "colour"], "colour"),
    "a lock timeout that is none": (
        ["install", "parcels", "--lock-timeout", "soon"],
        "--lock-timeout must be",
    ),
    "nothing to remove": (["remove"], "name the tables, or give --all"),
    "a table of ours": (["install", "rowbell.listener"], "leave it alone"),
    "a timeout that is none": (["watch", "orders", "1", "--timeout", "-1"], "positive"),
    "models without a name": (["status", "--models", ""], "is empty"),
    "a key that is no text": (["watch", "Odd parcels", "\udcff"], "no value of Id"),
    "models that do not exist": (["status", "--models", "nowhere:Base"], "cannot be imported"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_bad_input_is_one_line_and_exit_code_2(bare: URL, name: str) -> None:
    arguments, message = PROBLEMS[name]
    result = call(*arguments, url=bare)
    assert (result.code, result.out) == (2, ""), result
    assert message in result.err
    assert result.err.startswith("rowbell: ")
    assert result.err.count("\n") == 1


URLS = [
    "nonsense",
    "",
    "mysql://root:geheim@localhost/x",
    "postgresql://[",
    "postgresql://u:geheim@h:abc/x",
    "postgresql://u:ge@heim@h:1/x",
    "postgresql://u@h/x?host=a,b&port=1",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_none(url: str) -> None:
    result = call("status", url=url)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "heim" not in result.err


@pytest.mark.parametrize("text", ["[tool]\nrowbell = 5", "tool = 5", "[tool", b"\xff"])
def test_a_pyproject_that_cannot_be_read(
    text: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "pyproject.toml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    result = call("status")
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_passwords_are_redacted_and_control_characters_written_out() -> None:
    assert redacted("to postgresql://u:geheim@h/d") == "to postgresql://u:***@h/d"
    assert redacted("host=h password=geheim") == "host=h password=***"
    assert escaped("a\x1b[2J\r\n\u202eb") == "a\\x1b[2J\\r\\n\\u202eb"


def test_the_commands_of_the_page_can_be_called(
    database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(execute(database, "INSERT INTO orders VALUES (7, 'new', NULL, 0)"))
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    page = (ROOT / "docs" / "how-to" / "command-line.md").read_text()
    commands = [line.split("#")[0].split() for line in page.splitlines() if line[:8] == "rowbell "]
    assert len(commands) == 9
    for _, *arguments in commands:
        assert call(*arguments).code in {0, 1}, arguments


def test_the_help_names_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "200")
    shown = call("--help")
    assert shown.code == 0
    for command in ("doctor", "status", "sql", "install", "upgrade", "remove", "watch"):
        assert command in shown.out
    assert "[tool.rowbell]" in shown.out
