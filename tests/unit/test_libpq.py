"""libpq's parameters are translated for asyncpg, ignored, or refused: none is lost silently."""

from __future__ import annotations

import os
import pwd
import ssl
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from rowbell import _libpq as libpq
from rowbell._libpq import UntranslatableError, translated


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in psycopg.pq.Conninfo.get_defaults():
        if option.envvar:
            monkeypatch.delenv(option.envvar.decode(), raising=False)


def test_each_parameter_of_libpq_is_on_one_list_with_its_variable() -> None:
    """A newer libpq may add parameters: each has to be thought about."""
    variables = libpq.TRANSLATED | {n: refused.variable for n, refused in libpq.REFUSED.items()}
    for option in psycopg.pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        lists = [each for each in (libpq.TRANSLATED, libpq.IGNORED, libpq.REFUSED) if name in each]
        assert len(lists) == 1, name
        if name in variables and option.envvar is not None:
            assert variables[name] == option.envvar.decode()


SOCKETS = "/var/run/postgresql"
BY_DEFAULT = {
    "host": [SOCKETS],
    "port": 5432,
    "user": pwd.getpwuid(os.geteuid()).pw_name,
    "database": pwd.getpwuid(os.geteuid()).pw_name,
    "target_session_attrs": "any",
}
"""Everything is named: asyncpg has other defaults, and reads the environment itself."""
PREFER = {"dsn": "postgresql://?sslmode=prefer"}


@pytest.mark.parametrize("name", libpq.REFUSED)
def test_a_value_that_is_the_default_of_libpq_changes_nothing(name: str) -> None:
    for option in psycopg.pq.Conninfo.get_defaults():
        if option.keyword.decode() == name and option.compiled:
            assert translated({name: option.compiled.decode()}).arguments == BY_DEFAULT


TRANSLATIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, BY_DEFAULT),
    ({"host": "db", "port": 6432}, BY_DEFAULT | PREFER | {"host": ["db"], "port": 6432}),
    ({"host": "a,b", "port": "1,2"}, BY_DEFAULT | PREFER | {"host": ["a", "b"], "port": [1, 2]}),
    ({"host": "a,b", "port": "5"}, BY_DEFAULT | PREFER | {"host": ["a", "b"], "port": 5}),
    ({"host": "a,b", "port": ",2"}, BY_DEFAULT | PREFER | {"host": ["a", "b"], "port": [5432, 2]}),
    ({"host": "/srv/of ours"}, BY_DEFAULT | {"host": ["/srv/of ours"], "password": ""}),
    ({"user": "me"}, BY_DEFAULT | {"user": "me", "database": "me"}),
    (
        {"user": "me", "password": " a b", "dbname": "shop", "passfile": "/p"},
        BY_DEFAULT | {"user": "me", "password": " a b", "database": "shop", "passfile": "/p"},
    ),
    (
        {"connect_timeout": 3, "host": "a,b"},
        BY_DEFAULT | PREFER | {"timeout": 6.0, "host": ["a", "b"]},
    ),
    ({"connect_timeout": "0"}, BY_DEFAULT),
    (
        {"options": "-c search_path=x", "fallback_application_name": "shop"},
        BY_DEFAULT
        | {"server_settings": {"options": "-c search_path=x", "application_name": "shop"}},
    ),
    (
        {"application_name": "a", "fallback_application_name": "b"},
        BY_DEFAULT | {"server_settings": {"application_name": "a"}},
    ),
    (
        {"target_session_attrs": "read-write"},
        BY_DEFAULT | {"target_session_attrs": "read-write"},
    ),
    ({"sslmode": "require"}, BY_DEFAULT),
    (
        {"host": "db", "sslmode": "verify-ca", "sslrootcert": "/a b.pem"},
        BY_DEFAULT
        | {"host": ["db"], "dsn": "postgresql://?sslmode=verify-ca&sslrootcert=%2Fa+b.pem"},
    ),
    ({"sslnegotiation": "direct"}, BY_DEFAULT),
    (
        {"host": "db", "sslmode": "require", "sslnegotiation": "direct"},
        BY_DEFAULT | {"host": ["db"], "dsn": "postgresql://?sslmode=require", "direct_tls": True},
    ),
    (
        {"autocommit": True, "prepare_threshold": None, "keepalives": 1, "gssencmode": "prefer"},
        BY_DEFAULT,
    ),
    ({"host": "", "password": None}, BY_DEFAULT),
]


@pytest.mark.parametrize(("parameters", "arguments"), TRANSLATIONS)
def test_parameters_become_arguments_of_asyncpg(
    parameters: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert translated(parameters).arguments == arguments


def test_what_is_ignored_is_said() -> None:
    ignored = translated({"keepalives": 1, "channel_binding": "prefer", "sslmode": "allow"}).ignored
    assert set(ignored) == {"keepalives", "channel_binding"}


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"hostaddr": "10.0.0.1"}, "hostaddr .* another server"),
        ({"channel_binding": "require"}, "channel_binding .* less secure"),
        ({"sslpassword": "secret"}, "sslpassword"),
        ({"replication": "database"}, "replication .* cannot LISTEN"),
        ({"new_in_libpq": "secret"}, "new_in_libpq is not known"),
        ({"host": "a,,b"}, "empty name"),
        ({"host": "@abstract"}, "abstract socket"),
        ({"host": "a,b,c", "port": "1,2"}, "2 ports for 3 hosts"),
        ({"host": "db", "sslrootcert": "system", "sslmode": "require"}, "sslmode=verify-full"),
        ({"service": "none"}, "no service 'none'"),
    ],
)
def test_what_asyncpg_cannot_do_is_refused_by_name(parameters: dict[str, Any], why: str) -> None:
    with pytest.raises(UntranslatableError, match=why) as caught:
        translated(parameters)
    assert "secret" not in str(caught.value)


def test_a_refused_variable_of_the_environment_is_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGREQUIREAUTH", "scram-sha-256")
    with pytest.raises(UntranslatableError, match="require_auth"):
        translated({})
    assert translated({"require_auth": ""}).arguments == BY_DEFAULT


def test_the_old_variable_that_requires_encryption_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGREQUIRESSL", "1")
    assert translated({"host": "db"}).arguments["dsn"] == "postgresql://?sslmode=require"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert translated({"host": "db"}).arguments["dsn"] == "postgresql://?sslmode=verify-full"


def test_an_empty_parameter_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert translated({"host": "", "password": ""}).arguments == BY_DEFAULT | {"password": ""}
    assert translated({"host": "db", "password": ""}).arguments["password"] == ""


def test_asyncpg_does_not_take_a_password_for_localhost_to_a_socket() -> None:
    """For libpq, that is the password of the default socket only."""
    assert translated({"host": "/srv/elsewhere"}).arguments["password"] == ""
    for host in ("localhost", SOCKETS):
        assert "password" not in translated({"host": host}).arguments


def test_given_parameters_win_over_the_service_and_that_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "services"
    file.write_text("# ours\n[shop]\nhost=of-service\nuser=of-service\npassword=50%\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    for name in ("PGHOST", "PGUSER", "PGDATABASE", "PGAPPNAME"):
        monkeypatch.setenv(name, "of-environment")
    assert translated({"service": "shop", "user": "given"}).arguments == {
        **BY_DEFAULT,
        **PREFER,
        "host": ["of-service"],
        "user": "given",
        "password": "50%",
        "database": "of-environment",
        "server_settings": {"application_name": "of-environment"},
    }


def test_a_service_of_the_system_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf").write_text("[shop]\ndbname=shop\n")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    monkeypatch.setenv("PGSERVICE", "shop")
    assert translated({}).arguments == BY_DEFAULT | {"database": "shop"}


def test_a_service_may_not_smuggle_in_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "services"
    file.write_text("[shop]\nhostaddr=10.0.0.1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with pytest.raises(UntranslatableError, match="hostaddr"):
        translated({"service": "shop"})


SERVICES = """
password=topsecret
[DEFAULT]
sslmode=disable
[shop]  # ours
  host=db
\tsslmode=require
password= p%s=1
host=second
[shop]
user=another
[broken]
topsecret
[nested]
service=shop
"""


def test_a_service_file_is_read_as_libpq_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Indented lines count, the first value wins, and no section is added to another."""
    file = tmp_path / "services"
    file.write_bytes(b"# caf\xe9\r\n" + SERVICES.encode())
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    found = translated({"service": "shop"}).arguments
    required = {"dsn": "postgresql://?sslmode=require"}
    assert found == BY_DEFAULT | required | {"host": ["db"], "password": " p%s=1"}
    for service in ("broken", "nested"):
        with pytest.raises(UntranslatableError, match="is not a parameter") as caught:
            translated({"service": service})
        assert "topsecret" not in str(caught.value)


def test_the_certificates_that_the_system_trusts_are_loaded(tmp_path: Path) -> None:
    """Asyncpg would look for a file of the name "system"."""
    certificate = trustme.CA().issue_cert("client")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    arguments = translated(
        {
            "host": "db",
            "sslrootcert": "system",
            "sslcert": tmp_path / "client.pem",
            "ssl_min_protocol_version": "TLSv1.3",
        }
    ).arguments
    assert "dsn" not in arguments
    context: ssl.SSLContext = arguments["ssl"]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
