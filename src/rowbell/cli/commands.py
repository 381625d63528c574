"""The commands and their options. What they do is in the modules that they call."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy.exc import SAWarning

from rowbell._lock_timeout import LockTimeout
from rowbell._watch.database.tables import TriggerOptions
from rowbell._watch.database.triggers import ForEach
from rowbell.cli import doctor as doctors
from rowbell.cli import relaying, triggers, watching
from rowbell.cli.output import Output, escaped
from rowbell.cli.problem import ProblemError, told_in_one_line
from rowbell.cli.target import Target

if TYPE_CHECKING:
    from collections.abc import Coroutine

app: typer.Typer = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Triggers of rowbell, and whether they can work. The database is --url, DATABASE_URL, "
    "url in [tool.rowbell] of pyproject.toml, or that of libpq's variables (PGSERVICE, PGHOST).",
)

Url = Annotated[str | None, typer.Option("--url", help="postgresql://user@host/database")]
Models = Annotated[str | None, typer.Option("--models", help="package.module:Base")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tables = Annotated[list[str] | None, typer.Argument(help="Tables, as schema.table if need be.")]
Timeout = Annotated[str, typer.Option("--lock-timeout", help="The longest wait for a lock.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be executed.")]
Nats = Annotated[
    list[str] | None, typer.Option("--nats", envvar="ROWBELL_NATS", help="nats://user@host")
]
Root = Annotated[str, typer.Option("--root", help="The first part of subjects in NATS.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Accept NATS without TLS, or with equal rights.")
]
Columns = Annotated[str | None, typer.Option("--columns", help="Columns worth watching: a,b")]
Inserts = Annotated[bool, typer.Option("--inserts", help="Also notify of inserts.")]
ByRow = Annotated[bool, typer.Option("--row", help="One call for each row, not statement.")]
Replicated = Annotated[bool, typer.Option("--replicated", help="Also fire on a subscriber.")]


@app.command()
def doctor(
    url: Url = None,
    models: Models = None,
    socket: Annotated[str | None, typer.Option("--socket", help="Of a relay, if used.")] = None,
    nats: Nats = None,
    application: Annotated[str, typer.Option("--application", help="Its name in NATS.")] = "app",
    root: Root = "rowbell",
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Check everything that notifications need; change nothing. Exit code 1: a check has failed."""
    target, output = Target.of(url, models), Output(json)
    relay = relaying.check(
        socket=socket, nats=nats, application=application, root=root, insecure=insecure
    )
    _exit(asyncio.run(doctors.examine(target, output, relay)))


@app.command()
def status(
    tables: Tables = None,
    url: Url = None,
    models: Models = None,
    json: Json = False,
) -> None:
    """Show the state of triggers: of tables, of models, or of all tables that have some."""
    output = Output(json)
    _exit(asyncio.run(triggers.status(Target.of(url, models), tables or [], output)))


@app.command()
def sql(
    tables: Tables = None,
    url: Url = None,
    models: Models = None,
    columns: Columns = None,
    inserts: Inserts = False,
    row: ByRow = False,
    replicated: Replicated = False,
    lock_timeout: Timeout = "2s",
    json: Json = False,
) -> None:
    """Print the SQL that installs triggers, for other migration tools."""
    options = _options(columns, inserts=inserts, row=row, replicated=replicated)
    target, output = Target.of(url, models), Output(json)
    _run(triggers.sql(target, tables or [], options, _limit(lock_timeout), output))


@app.command()
def install(
    tables: Tables = None,
    url: Url = None,
    models: Models = None,
    columns: Columns = None,
    inserts: Inserts = False,
    row: ByRow = False,
    replicated: Replicated = False,
    lock_timeout: Timeout = "2s",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Install triggers, one table after the other; again if a table is in use."""
    options = _options(columns, inserts=inserts, row=row, replicated=replicated)
    target, output, timeout = (
        Target.of(url, models),
        Output(json),
        _limit(lock_timeout),
    )
    work = triggers.sql if dry_run else triggers.install
    _run(work(target, tables or [], options, timeout, output))


@app.command()
def upgrade(
    url: Url = None,
    lock_timeout: Timeout = "2s",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Install the triggers of all tables again, with their options, in this version."""
    timeout = _limit(lock_timeout)
    _run(triggers.upgrade(Target.of(url, None), timeout, Output(json), dry_run=dry_run))


@app.command()
def remove(
    tables: Tables = None,
    url: Url = None,
    everything: Annotated[bool, typer.Option("--all", help="Of all tables.")] = False,
    lock_timeout: Timeout = "2s",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove triggers. The schema rowbell stays: DROP SCHEMA rowbell CASCADE removes it."""
    if bool(tables) == everything:
        raise ProblemError("name the tables, or give --all")
    timeout = _limit(lock_timeout)
    target, output = Target.of(url, None), Output(json)
    _run(triggers.remove(target, tables or [], timeout, output, dry_run=dry_run))


@app.command()
def watch(
    table: Annotated[str, typer.Argument(help="The table.")],
    key: Annotated[str, typer.Argument(help="The primary key; its parts with commas.")],
    url: Url = None,
    columns: Columns = None,
    until: Annotated[str | None, typer.Option(help="End when column=value.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after these seconds.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on after a change.")] = False,
    json: Json = False,
) -> None:
    """Show a row, and its next change. Exit code 1: none came within --timeout."""
    if timeout is not None and not timeout > 0:
        raise ProblemError("--timeout must be a positive number of seconds")
    work = watching.watch(
        Target.of(url, None),
        table,
        key,
        Output(json),
        columns=_names(columns),
        until=until,
        seconds=timeout,
        follow=follow,
    )
    _exit(asyncio.run(work))


@app.command()
def relay(
    url: Url = None,
    socket: Annotated[str | None, typer.Option("--socket", help="A unix socket to create.")] = None,
    nats: Nats = None,
    name: Annotated[str | None, typer.Option("--name", help="Relays that stand by.")] = None,
    mode: Annotated[str, typer.Option("--socket-mode", help="The rights on the socket.")] = "660",
    root: Root = "rowbell",
    credentials: Annotated[
        str | None, typer.Option("--credentials", help="A file with the user in NATS.")
    ] = None,
    insecure: Insecure = False,
    reads: Annotated[
        float, typer.Option("--reads-per-second", help="Of all processes, without the relay.")
    ] = 500.0,
    health: Annotated[
        str | None, typer.Option("--health", help="host:port for /live, /ready and /status.")
    ] = None,
    json: Json = False,
) -> None:
    """Listen for the processes of a fleet, until it is told to end. See rowbell.relay.Relay."""
    try:
        rights = int(mode, 8)
    except ValueError:
        raise ProblemError("--socket-mode must be octal, for example 660") from None
    work = relaying.relay(
        Target.of(url, None),
        Output(json),
        health=health,
        socket=socket,
        nats=nats,
        name=name,
        socket_mode=rights,
        root=root,
        credentials=credentials,
        insecure=insecure,
        reads_per_second=reads,
    )
    _run(work)


def _limit(lock_timeout: str) -> LockTimeout:
    return LockTimeout.of(lock_timeout, "--lock-timeout")


def _names(columns: str | None) -> list[str] | None:
    return None if columns is None else [name.strip() for name in columns.split(",")]


def _options(columns: str | None, *, inserts: bool, row: bool, replicated: bool) -> TriggerOptions:
    names = _names(columns)
    form = ForEach.ROW if row else None
    return TriggerOptions(form, replicated, None if names is None else tuple(names), inserts)


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def _exit(is_well: bool) -> None:  # noqa: FBT001
    if not is_well:
        raise typer.Exit(1)


class _Escaped(logging.Formatter):
    """Names of tables may contain control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def _prepare() -> None:
    """Logs and output that any terminal can show."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Escaped("%(message)s"))
    logging.getLogger("rowbell").addHandler(handler)
    warnings.simplefilter("ignore", SAWarning)  # about types of columns that it does not know
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """The entry point."""
    _prepare()
    try:
        with told_in_one_line():
            app()
    except ProblemError as problem:
        print(f"rowbell: {escaped(str(problem))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(problem.code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
