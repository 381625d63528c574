"""libpq's connection parameters as arguments of ``asyncpg.connect()``.

An engine on psycopg takes the parameters of libpq (PostgreSQL manual, 34.1.2 "Parameter Key
Words") and their environment variables (34.15). asyncpg does not know all of them, and sends those
that it does not know to the server. Each parameter is on one of three lists: translated, ignored
because the connection is the same without it, or refused because it would be another one.
"""

from __future__ import annotations

import getpass
import inspect
import os
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import asyncpg

from rowbell._service_file import ServiceFileError, read_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

if sys.platform != "win32":
    import pwd

TRANSLATED: Final = {
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "dbname": "PGDATABASE",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "fallback_application_name": None,
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}
"""With the environment variable of each."""

IGNORED: Final = {
    "client_encoding": "asyncpg speaks UTF-8, and what is sent here is rowbell's own",
    "keepalives": "the watcher has a heartbeat",
    "keepalives_idle": "the watcher has a heartbeat",
    "keepalives_interval": "the watcher has a heartbeat",
    "keepalives_count": "the watcher has a heartbeat",
    "tcp_user_timeout": "the watcher has a heartbeat",
    "sslcompression": "no server compresses",
    "sslkeylogfile": "it is for debugging",
    "max_protocol_version": "asyncpg speaks version 3.0, which all servers speak",
    # psycopg's own, which change nothing in the server.
    "autocommit": "psycopg's own",
    "context": "psycopg's own",
    "cursor_factory": "psycopg's own",
    "row_factory": "psycopg's own",
    "prepare_threshold": "psycopg's own",
    "prepared_max": "psycopg's own",
}
"""With the reason. A variable of the environment is ignored with its parameter."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A parameter that cannot be left out.

    Attributes:
        why: What would be different without it.
        variable: Its environment variable.
        harmless: The values with which nothing changes.
    """

    why: str
    variable: str | None = None
    harmless: tuple[str, ...] = ()


_WEAKER: Final = "asyncpg cannot do it, and the connection would be less secure than it asks for"
_ELSEWHERE: Final = "asyncpg cannot do it, and the connection might lead to another server"

REFUSED: Final = {
    "hostaddr": Refused(_ELSEWHERE, "PGHOSTADDR"),
    "load_balance_hosts": Refused(_ELSEWHERE, "PGLOADBALANCEHOSTS", ("disable",)),
    "channel_binding": Refused(_WEAKER, "PGCHANNELBINDING", ("prefer", "disable")),
    "require_auth": Refused(_WEAKER, "PGREQUIREAUTH"),
    "requirepeer": Refused(_WEAKER, "PGREQUIREPEER"),
    "min_protocol_version": Refused(_WEAKER, "PGMINPROTOCOLVERSION", ("3.0",)),
    "gssencmode": Refused(_WEAKER, "PGGSSENCMODE", ("prefer", "disable")),
    "gssdelegation": Refused("asyncpg cannot do it", "PGGSSDELEGATION", ("0",)),
    "sslcertmode": Refused(_WEAKER, "PGSSLCERTMODE", ("allow",)),
    "sslcrldir": Refused(_WEAKER, "PGSSLCRLDIR"),
    "sslsni": Refused(_WEAKER, "PGSSLSNI", ("1",)),
    "sslpassword": Refused("the password of a client key is not handed on"),
    "scram_client_key": Refused("asyncpg cannot do it"),
    "scram_server_key": Refused("asyncpg cannot do it"),
    "oauth_issuer": Refused("asyncpg cannot do it"),
    "oauth_client_id": Refused("asyncpg cannot do it"),
    "oauth_client_secret": Refused("asyncpg cannot do it"),
    "oauth_scope": Refused("asyncpg cannot do it"),
    "replication": Refused("such a connection cannot LISTEN", harmless=("false", "off", "no", "0")),
}

_TLS: Final = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)


class UntranslatableError(Exception):
    """asyncpg cannot connect with these parameters. The message contains no secret."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What ``asyncpg.connect()`` is called with.

    Attributes:
        arguments: Its arguments. They may contain a password.
        ignored: The parameters that are left out, each with the reason.
    """

    arguments: dict[str, Any]
    ignored: Mapping[str, str]


def translated(parameters: Mapping[str, object]) -> Translation:
    """Translate libpq's parameters, with what its environment and its service file add.

    Args:
        parameters: What psycopg is called with, by libpq's names.

    Raises:
        UntranslatableError: One of them is refused, or is on none of the lists.
    """
    explicit = {name: _text(value) for name, value in parameters.items() if value is not None}
    try:
        given = _complete(explicit)
    except ServiceFileError as error:
        raise UntranslatableError(str(error)) from error
    ignored = {name: IGNORED[name] for name in given if name in IGNORED}
    for name, value in given.items():
        if name in IGNORED or name in TRANSLATED:
            continue
        refused = REFUSED.get(name)
        if refused is None:
            raise UntranslatableError(f"the parameter {name} is not known")
        if value not in refused.harmless:
            raise UntranslatableError(f"the parameter {name} is refused: {refused.why}")
        ignored[name] = "its value changes nothing"
    return Translation(_checked(dict(_arguments(given))), ignored)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _complete(explicit: dict[str, str]) -> dict[str, str]:
    """Parameters in libpq's order of precedence: given, of the service, of the environment.

    An empty value wins over a later source too, and then means the default.
    """
    variables = TRANSLATED | {name: refused.variable for name, refused in REFUSED.items()}
    of_environment = {
        name: os.environ[variable]
        for name, variable in variables.items()
        if variable is not None and variable in os.environ
    }
    if os.environ.get("PGREQUIRESSL", "").startswith("1"):  # old, but libpq still takes it
        of_environment.setdefault("sslmode", "require")
    given = of_environment | explicit
    if service := given.get("service"):
        of_service = read_service(service, given.get("servicefile"))
        if of_service is None:
            raise UntranslatableError(f"there is no service {service!r} in the service files")
        given = of_environment | of_service | explicit
    unneeded = {"service", "servicefile"}
    return {name: value for name, value in given.items() if value and name not in unneeded}


def _arguments(given: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The arguments. What asyncpg has another default for, or another variable, is always named."""
    hosts = [_host(host.strip()) for host in given.get("host", _SOCKETS).split(",")]
    yield "host", hosts
    ports = [_number("port", port or "5432") for port in given.get("port", "").split(",")]
    if len(ports) not in {1, len(hosts)}:
        raise UntranslatableError(f"there are {len(ports)} ports for {len(hosts)} hosts")
    yield "port", ports if len(ports) > 1 else ports[0]
    user = given.get("user") or _system_user()
    yield "user", user
    yield "database", given.get("dbname") or user
    if "password" in given:
        yield "password", given["password"]
    elif (_are_sockets(hosts) and hosts != [_SOCKETS]) or "PGPASSWORD" in os.environ:
        # In the password file, libpq takes "localhost" for the default socket only, asyncpg for
        # any. And asyncpg would take the variable, over which an empty parameter wins.
        yield "password", ""
    yield "target_session_attrs", given.get("target_session_attrs", "any")
    for name in ("passfile", "krbsrvname", "gsslib"):
        if name in given:
            yield name, given[name]
    # libpq's limit is for each host. 0 and less mean no limit, and 1 means 2.
    if (seconds := _number("connect_timeout", given.get("connect_timeout", "0"))) > 0:
        yield "timeout", float(max(seconds, 2) * len(hosts))
    application_name = given.get("application_name") or given.get("fallback_application_name")
    settings = {"application_name": application_name, "options": given.get("options")}
    if server_settings := {name: value for name, value in settings.items() if value}:
        yield "server_settings", server_settings
    if not _are_sockets(hosts):  # neither libpq nor asyncpg encrypts a socket
        if given.get("sslnegotiation", "postgres") == "direct":
            yield "direct_tls", True
        yield from _tls({name: given[name] for name in _TLS if name in given})


_SOCKETS: Final = "/var/run/postgresql" if sys.platform != "win32" else "localhost"
"""Where libpq looks for the server by default. asyncpg would go on to ``/tmp``, which is open to
everybody, and to ``localhost``."""


def _system_user() -> str:
    """Libpq's default: the effective user. asyncpg asks the environment."""
    if sys.platform == "win32":
        return getpass.getuser()
    return pwd.getpwuid(os.geteuid()).pw_name


def _are_sockets(hosts: list[str]) -> bool:
    return all(host.startswith("/") for host in hosts)


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UntranslatableError(f"the parameter {name} is not a number") from None


def _host(host: str) -> str:
    if not host or host.startswith("@"):
        kind = "an abstract socket" if host else "an empty name"
        raise UntranslatableError(f"the list of hosts has {kind} in it, which asyncpg cannot reach")
    return host


def _tls(given: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Certificates: asyncpg takes the names of their files in a DSN alone."""
    if given.get("sslrootcert") != "system":
        yield "dsn", f"postgresql://?{urlencode({'sslmode': 'prefer', **given})}"
        return
    if given.get("sslmode", "verify-full") != "verify-full":
        raise UntranslatableError("sslrootcert=system needs sslmode=verify-full")
    yield "ssl", _system_context(given)


def _system_context(given: Mapping[str, str]) -> ssl.SSLContext:
    """TLS with the certificates that the operating system trusts."""
    context = ssl.create_default_context()
    if "sslcert" in given:
        context.load_cert_chain(given["sslcert"], given.get("sslkey"))
    if "sslcrl" in given:
        context.load_verify_locations(cafile=given["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    for name, default in (("min", "TLSv1.2"), ("max", "")):
        if version := given.get(f"ssl_{name}_protocol_version", default):
            try:
                number = ssl.TLSVersion[version.replace(".", "_")]
            except KeyError:
                raise UntranslatableError(f"the TLS version {version} is not known") from None
            setattr(context, f"{name}imum_version", number)
    return context


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse what this version of asyncpg does not know."""
    unknown = sorted(set(arguments) - set(inspect.signature(asyncpg.connect).parameters))
    if unknown:
        raise UntranslatableError(f"asyncpg {asyncpg.__version__} does not know {unknown[0]}")
    return arguments
