"""Relays with stand-bys, and a cluster of NATS servers, on hosts that can be cut off."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import trustme

from network import Network

if TYPE_CHECKING:
    from sqlalchemy import URL

BROKERS: Final = 3
"""How many NATS servers there are. They are on the first hosts, the relays on the next."""

PASSWORDS: Final = {"RELAY_PASSWORD": "for-relay", "SHOP_PASSWORD": "for-shop"}
RIGHTS: Final = Path(__file__).parent.parent / "examples" / "fleet" / "nats.conf"

LEAVE: Final = 5.0
"""How long a relay may take to end after SIGTERM on a busy machine, in seconds."""

_RELAY: Final = str(Path(__file__).parent / "relaying.py")


class Program:
    """A process that is started, killed, frozen and started again.

    Args:
        name: Its name.
        host: The host on which it runs.
        command: Its command.
        log: The file to which it writes.
        environment: More variables for it.
    """

    def __init__(
        self, name: str, host: int, command: tuple[str, ...], log: Path, **environment: str
    ) -> None:
        self.name = name
        self.host = host
        self._command = command
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, **self._environment}
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, number: signal.Signals) -> int | None:
        """Send it a signal that ends it; return its exit code, or ``None`` if it did not end."""
        self.send(number)
        if self._process is None:
            return 0
        try:
            return self._process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    @property
    def leads(self) -> bool:
        """Whether it is a relay that leads, by its log."""
        lines = [line for line in self._log.read_text().splitlines() if "rowbell relay [" in line]
        return bool(lines) and lines[-1].endswith(": leading")


class Fleet:
    """The cluster, two relays of it, and two relays on a unix socket.

    Args:
        database: The URL of the database, with the relays' role.
        heartbeat: The time between two heartbeats of a relay, in seconds.
        folder: Where files and logs go.

    Attributes:
        network: Where they run.
        brokers: The NATS servers.
        relays: The relays.
        socket: The path of the unix socket.
        authority: The path of the certificate of those who vouch for the servers.
    """

    def __init__(self, database: URL, heartbeat: float, folder: Path) -> None:
        self.network = Network(BROKERS + 2)
        self.socket = str(folder / "relay.sock")
        self.authority = str(folder / "authority.pem")
        self.brokers: list[Program] = []
        self.relays: list[Program] = []
        self._database = database.render_as_string(hide_password=False)
        self._heartbeat = str(heartbeat)
        self._folder = folder
        self._ports: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self.network)
            self._ports = [_free_port() for _ in range(2 * BROKERS)]
            addresses = [self.network.address(host) for host in range(BROKERS)]
            authority = trustme.CA()
            authority.cert_pem.write_to_path(self.authority)
            authority.issue_cert(*set(addresses)).private_key_and_cert_chain_pem.write_to_path(
                str(self._folder / "server.pem")
            )
            self.brokers = [self._broker(host) for host in range(BROKERS)]
            nats = [option for url in self.urls("relay") for option in ("--nats", url)]
            self.relays = [
                *(self._relay(f"relay-nats{n}", BROKERS + n, *nats) for n in range(2)),
                *(self._relay(f"relay-socket{n}", None, "--socket", self.socket) for n in range(2)),
            ]
            for program in (*self.brokers, *self.relays):
                stack.callback(program.end, signal.SIGKILL)
                program.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def urls(self, user: str) -> list[str]:
        """The URLs of the NATS servers for a user."""
        password = PASSWORDS[f"{user.upper()}_PASSWORD"]
        return [
            f"tls://{user}:{password}@{self.network.address(host)}:{self._ports[host]}"
            for host in range(BROKERS)
        ]

    def leave(self) -> list[str]:
        """Tell the relays to end; return what was wrong with how they did."""
        began = time.monotonic()
        codes = {relay.name: relay.end(signal.SIGTERM) for relay in self.relays}
        print(f"the relays have ended after {time.monotonic() - began:.1f} s")
        return [f"{name} ended with {code}" for name, code in codes.items() if code != 0]

    def _broker(self, host: int) -> Program:
        found = shutil.which("nats-server", path=Path(sys.executable).parent)
        if found is None:
            raise RuntimeError("nats-server is not installed: make soak")
        routes = [
            f"nats://{self.network.address(other)}:{self._ports[BROKERS + other]}"
            for other in range(BROKERS)
        ]
        certificate = str(self._folder / "server.pem")
        address = self.network.address(host)
        options = {
            "--addr": address,
            "--port": str(self._ports[host]),
            "--config": str(RIGHTS),
            "--tlscert": certificate,
            "--tlskey": certificate,
            "--cluster": routes[host],
            "--cluster_name": "soak",
            "--routes": ",".join(routes),
        }
        words = [word for option in options.items() for word in option]
        command = (*self.network.on(host), found, "--tls", *words)
        return Program(f"nats{host}", host, command, self._folder / f"nats{host}.log", **PASSWORDS)

    def _relay(self, name: str, host: int | None, *options: str) -> Program:
        where = () if host is None else self.network.on(host)
        command = (*where, sys.executable, _RELAY, self._database, self._heartbeat, *options)
        log = self._folder / f"{name}.log"
        environment: dict[str, Any] = {"SSL_CERT_FILE": self.authority}
        return Program(name, -1 if host is None else host, command, log, **environment)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
